"""Gradients against Direct Feedback Alignment written out by hand, and properties that must hold to the bit."""

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from optical_dfa import Ternarize, attach
from optical_dfa.devices import EmulatedDevice, ProjectionDevice, emulated, open_device
from optical_dfa.devices.readouts import noise
from optical_dfa.emulator import Pupil

Array = npt.NDArray[np.float64]
Blocks = Sequence[Sequence[int]]

HAND_WRITTEN: dict[type[nn.Module], tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    nn.Tanh: (lambda a: np.tanh(a), lambda h: 1 - h**2),
    nn.ReLU: (lambda a: np.maximum(a, 0), lambda h: (h > 0).astype(np.float64)),
}
"""Value f(a) of each activation, and its slope as a function of that value."""

INPUTS, CLASSES, BATCH = 20, 10, 32
NOISY = {"name": "emulator", "preset": "phase-stepping", "seed": 4}


def make_net(blocks: Blocks = ((24,), (17,)), activation: type[nn.Module] = nn.Tanh, seed: int = 0) -> nn.Sequential:
    """A perceptron; `blocks` holds the widths of the layers of each block."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    before = INPUTS
    for width in itertools.chain(*blocks):
        layers += [nn.Linear(before, width), activation()]
        before = width
    return nn.Sequential(*layers, nn.Linear(before, CLASSES))


def point_names(blocks: Blocks) -> list[str]:
    """Names of the activations at the end of each block."""
    ends = itertools.accumulate(len(block) for block in blocks)
    return [str(2 * end - 1) for end in ends]


def batch(seed: int = 1, rows: int = BATCH) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, INPUTS, generator=generator), torch.randint(0, CLASSES, (rows,), generator=generator)


def gradients(net: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def step(net: nn.Module, x: Tensor, y: Tensor, factor: float = 1.0, reduction: str = "mean") -> dict[str, Tensor]:
    """Gradients of one batch."""
    net.zero_grad()
    torch.autograd.backward(factor * cross_entropy(net(x), y, reduction=reduction))
    return gradients(net)


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def dfa_by_hand(
    net: nn.Sequential,
    blocks: Blocks,
    x: Tensor,
    y: Tensor,
    matrix: npt.NDArray[np.float32],
    *,
    ternary: bool,
    layout: str,
    activation: type[nn.Module],
    reduction: str,
) -> dict[str, Array]:
    """dW = (f'(a) ∘ T·e/√d)ᵀ h in float64: forward, error, ternary vectors and backward, all written out."""
    value, slope = HAND_WRITTEN[activation]
    linears = {name: layer for name, layer in net.named_children() if isinstance(layer, nn.Linear)}
    weights = {name: layer.weight.detach().double().numpy() for name, layer in linears.items()}
    h = x.double().numpy()
    inputs: dict[str, Array] = {}
    outputs: dict[str, Array] = {}
    for name, layer in linears.items():
        inputs[name] = h
        outputs[name] = h @ weights[name].T + layer.bias.detach().double().numpy()
        h = value(outputs[name])
    top = list(linears)[-1]
    exponentials = np.exp(outputs[top] - outputs[top].max(1, keepdims=True))
    error = exponentials / exponentials.sum(1, keepdims=True) - np.eye(CLASSES)[y.numpy()]
    if reduction == "mean":
        error /= len(error)
    shown = error
    if ternary:
        shown = np.zeros_like(error)
        for row, e in enumerate(error):
            limit = 0.5 * np.abs(e).max()
            shown[row] = np.where(e > limit, 1.0, 0.0) - np.where(e < -limit, 1.0, 0.0)
            shown[row] *= np.sqrt((e**2).sum() / (shown[row] ** 2).sum())
    field = shown @ matrix.astype(np.float64).T

    result = {f"{top}.weight": error.T @ inputs[top], f"{top}.bias": error.sum(0)}
    names = iter(linears)
    first = 0
    for block in blocks:
        width = block[-1]
        delta = field[:, first : first + width] / np.sqrt(width)
        first += width if layout == "independent" else 0
        for name in reversed([next(names) for _ in block]):
            delta = delta * slope(value(outputs[name]))
            result[f"{name}.weight"], result[f"{name}.bias"] = delta.T @ inputs[name], delta.sum(0)
            delta = delta @ weights[name]
    return result


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("layout", ["shared", "independent"])
@pytest.mark.parametrize("encoder", [None, Ternarize()], ids=["exact", "ternary"])
@pytest.mark.parametrize("blocks", [((24,),), ((24,), (17,)), ((12,), (32,), (20,)), ((20, 16), (12, 14, 9))], ids=str)
def test_gradients_are_the_formula(
    blocks: Blocks,
    encoder: Ternarize | None,
    layout: Literal["shared", "independent"],
    activation: type[nn.Module],
    reduction: str,
) -> None:
    """Every parameter to 5e-6 relative; blocks of several layers are backpropagated inside."""
    net, (x, y) = make_net(blocks, activation), batch()
    with attach(net, after=point_names(blocks), device="digital", ternarize=encoder, layout=layout) as feedback:
        found = step(net, x, y, reduction=reduction)
        matrix = feedback.device.effective_matrix()
        widths = [block[-1] for block in blocks]
        assert matrix is not None
        assert matrix.shape == (max(widths) if layout == "shared" else sum(widths), CLASSES)
        options = {"ternary": encoder is not None, "layout": layout, "activation": activation, "reduction": reduction}
        expected = dfa_by_hand(net, blocks, x, y, matrix, **options)  # type: ignore[arg-type]
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        distance = np.linalg.norm(gradient.double().numpy() - expected[name])
        assert distance < 5e-6 * np.linalg.norm(expected[name]), name


def test_the_off_axis_optics_turn_the_gradient_as_much_as_their_noise_says() -> None:
    """1 - cos = 1 - (1 + 1/SNR)^-½, of each sample's gradient against that of the digital device.

    Softmax errors of a fresh net light the true class alone: SNR = Is R² / (f (Is + R² + s² + q²/12)). The mean over 20
    samples of 400 features, of differing slopes, is known to 2 %: 10 % are 5 σ.
    """
    (x, y), found = batch(rows=20), []
    for device in ("digital", {"name": "emulator", "preset": "off-axis", "photometry": {"signal_e_per_feature": 10.0}}):
        net = make_net(((400,),))
        with attach(net, after=nn.Tanh, device=device) as feedback:
            samples = [(x[row : row + 1], y[row : row + 1]) for row in range(20)]
            found.append([step(net, *sample)["0.bias"].double().numpy() for sample in samples])
    optics = feedback.device
    assert isinstance(optics, EmulatedDevice)
    assert (optics.usage.frames, optics.usage.frames_skipped) == (20, 20)
    bench, info = optics.preset.bench, optics._bench.info
    kept = Pupil(info.image_shape, info.grain_px).kept_fraction
    variance_e = noise.off_axis_variance_e(
        10.0, bench.photometry.reference_e, kept, 13.0, 1 / bench.camera.gain_dn_per_e
    )
    expected = 1 - noise.expected_cosine(noise.snr([10.0], lambda _: variance_e))
    lost = [1 - a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(*found, strict=True)]
    assert np.mean(lost) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("encoder", [None, Ternarize()], ids=["exact", "ternary"])
def test_the_layer_above_the_last_point_gets_its_exact_gradient(encoder: Ternarize | None) -> None:
    net, (x, y) = make_net(), batch()
    plain = step(copy.deepcopy(net), x, y)
    with attach(net, after=nn.Tanh, device="digital", ternarize=encoder):
        found = step(net, x, y)
    assert torch.equal(found["4.weight"], plain["4.weight"])
    assert torch.equal(found["4.bias"], plain["4.bias"])
    for name in ("0.weight", "2.weight"):
        cosine = torch.cosine_similarity(found[name].flatten(), plain[name].flatten(), dim=0)
        assert cosine.abs() < 0.5, f"{name} is not backpropagated"


def test_two_backward_passes_add_up() -> None:
    """A batch that fits no memory: the sum of the gradients of its parts, to the bit."""
    net = make_net()
    batches = [batch(1), batch(2)]
    with attach(net, after=nn.Tanh, device="digital") as feedback:
        first, second = (step(net, x, y) for x, y in batches)
        net.zero_grad()
        for x, y in batches:
            torch.autograd.backward(cross_entropy(net(x), y))
        assert same_bits(gradients(net), {name: first[name] + second[name] for name in first})
        assert feedback.device.usage.vectors == 4 * BATCH


@pytest.mark.parametrize(
    ("device", "encoder"),
    [
        ("digital", None),
        ("digital", Ternarize()),
        ("digital", Ternarize(kind="stochastic", seed=2)),
        (NOISY, Ternarize()),
        (NOISY, Ternarize(kind="stochastic", seed=2)),
    ],
    ids=["real", "relative", "stochastic", "noisy relative", "noisy stochastic"],
)
def test_loss_scaling_scales_every_gradient_exactly(device: Any, encoder: Ternarize | None) -> None:
    """By 2^10, bit for bit: what AMP and gradient accumulation rest on."""
    found = []
    for factor in (1.0, 1024.0):
        net, (x, y) = make_net(), batch()
        with attach(net, after=nn.Tanh, device=device, ternarize=encoder):
            found.append(step(net, x, y, factor))
    plain, scaled = found
    assert all(gradient.abs().max() > 0 for gradient in plain.values())
    assert same_bits(scaled, {name: 1024 * gradient for name, gradient in plain.items()})


def train(net: nn.Sequential, steps: int = 3) -> list[dict[str, Tensor]]:
    """Gradients and parameters of a short training."""
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    history = []
    for number in range(steps):
        history.append(step(net, *batch(number)))
        optimiser.step()
        history.append({name: p.detach().clone() for name, p in net.named_parameters()})
    return history


@pytest.mark.parametrize("layout", ["shared", "independent"])
def test_the_ideal_emulator_trains_as_the_digital_device_to_the_bit(layout: Literal["shared", "independent"]) -> None:
    """Through frames, images and readout; four frames for each half of a vector that is not dark."""
    runs = {}
    frames = {}
    for name, device in {"digital": {"name": "digital"}, "ideal": {"name": "emulator", "preset": "ideal"}}.items():
        net = make_net()
        with attach(net, after=nn.Tanh, device={**device, "seed": 5}, layout=layout) as feedback:
            runs[name] = train(net)
            frames[name] = feedback.device.usage.frames, feedback.device.usage.frames_skipped
            shown = feedback.sample
    for one, other in zip(runs["digital"], runs["ideal"], strict=True):
        assert same_bits(one, other)
    assert shown.shape == (3 * BATCH, CLASSES)
    lit = np.count_nonzero((shown > 0).any(1)) + np.count_nonzero((shown < 0).any(1))
    assert frames == {"digital": (0, 0), "ideal": (4 * lit, 4 * (2 * 3 * BATCH - lit))}


def test_a_noisy_step_does_not_depend_on_how_the_device_splits_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[int] = []
    whole = EmulatedDevice._project_chunk

    def counted(self: EmulatedDevice, vectors: npt.NDArray[Any], *rest: Any) -> None:
        parts.append(len(vectors))
        whole(self, vectors, *rest)

    monkeypatch.setattr(EmulatedDevice, "_project_chunk", counted)

    def run(device: Any) -> list[dict[str, Tensor]]:
        parts.clear()
        net = make_net()
        with attach(net, after=nn.Tanh, device=device):
            return train(net)

    in_one = run(NOISY)
    assert parts == [BATCH] * 3
    monkeypatch.setattr(emulated, "CHUNK_BYTES", 1)
    monkeypatch.setattr(emulated, "MIN_CHUNK", 1)
    in_many = run(NOISY)
    assert parts == [1] * 3 * BATCH
    assert all(same_bits(one, many) for one, many in zip(in_one, in_many, strict=True))
    noiseless = run({"name": "digital", "seed": 4})
    assert not torch.equal(noiseless[0]["0.weight"], in_one[0]["0.weight"]), "the device is noisy"


def test_one_open_device_may_serve_two_nets() -> None:
    """Its own outputs, more than either needs: both read the first rows."""
    x, y = batch()
    with open_device("digital", n_inputs=CLASSES, n_outputs=100) as device:
        found = []
        for given in (device, "digital"):
            net = make_net()
            attached: ProjectionDevice | str = given
            with attach(net, after=nn.Tanh, device=attached):
                found.append(step(net, x, y))
        assert same_bits(*found)
        assert device.usage.vectors == BATCH
