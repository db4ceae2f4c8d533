"""Number formats, errors that are not finite, and what is kept of the displayed vectors."""

import copy
import gc

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from optical_dfa import BitPlanes, FeedbackError, NonFiniteError, Projection, Ternarize, attach
from optical_dfa.devices import DeviceClosed, open_device
from optical_dfa.encode import Encoded

INPUTS, WIDTH, CLASSES, BATCH = 6, 16, 5, 6
NAN, INF = float("nan"), float("inf")


def make_net(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.Tanh(), nn.Linear(WIDTH, CLASSES)).to(dtype)


def chosen_error(rows: int = BATCH, seed: int = 0) -> Tensor:
    """Multiples of 1/8, exact in every float format."""
    generator = torch.Generator().manual_seed(seed)
    error = torch.randint(-8, 9, (rows, CLASSES), generator=generator) / 8
    error[:, 0] = 1.0
    return error


def shown(error: Tensor) -> npt.NDArray[np.int8]:
    """Ternary vectors of relative threshold 0.5; rows that are not finite are dark."""
    vectors = np.zeros(error.shape, np.int8)
    for row, entries in enumerate(error.tolist()):
        if np.isfinite(entries).all():
            largest = max(abs(e) for e in entries)
            vectors[row] = [(e > largest / 2) - (e < -largest / 2) for e in entries]
    return vectors


def feedback_by_hand(error: Tensor, matrix: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float64]:
    """1/√d · T · t · ‖e‖/‖t‖ of each row, float64 (rows, WIDTH)."""
    assert matrix is not None
    vectors = shown(error).astype(np.float64)
    lengths = np.linalg.norm(error.double().numpy(), axis=1) / np.linalg.norm(vectors, axis=1)
    result: npt.NDArray[np.float64] = (lengths[:, None] * vectors) @ matrix.T.astype(np.float64) / np.sqrt(WIDTH)
    return result


def backward(net: nn.Module, error: Tensor) -> Tensor:
    """A step whose error at the output is exactly `error`; the gradient at the output of the first layer."""
    found: list[Tensor] = []

    def keep(_module: nn.Module, _args: object, a: Tensor) -> None:
        a.register_hook(found.append)  # type: ignore[no-untyped-call]

    hook = net[0].register_forward_hook(keep)  # type: ignore[index]
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(len(error), INPUTS, generator=generator).to(error.dtype)
    net(x).backward(error)
    hook.remove()
    return found[0]


# ---- not finite


@pytest.mark.parametrize("ternarize", [Ternarize(), None], ids=["ternary", "real"])
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_row_that_is_not_finite_raises_and_nothing_is_displayed(bad: float, ternarize: Ternarize | None) -> None:
    net, error = make_net(), chosen_error()
    error[2, 1] = bad
    error[4] = bad
    with attach(net, after=nn.Tanh, device="digital", ternarize=ternarize) as feedback:
        with pytest.raises(NonFiniteError, match=r"2 of 6 error vectors hold NaN or infinity: .*nonfinite='nan'"):
            backward(net, error)
        assert feedback.device.usage.vectors == 0
        assert feedback.sample is None
        assert net[0].weight.grad is None
        backward(net, chosen_error())
        assert feedback.device.usage.vectors == BATCH


def test_rows_that_are_not_finite_get_nan_and_are_not_displayed() -> None:
    net, error = make_net(), chosen_error()
    error[2, 1] = NAN
    error[4, 0] = INF
    bad = [2, 4]
    good = [0, 1, 3, 5]
    device = {"name": "emulator", "preset": "ideal"}
    with attach(net, after=nn.Tanh, device=device, nonfinite="nan") as feedback:
        assert feedback.nonfinite_rows == 0
        found = backward(net, error)
        assert found[bad].isnan().all()
        assert found[good].isfinite().all()
        slope = (found / backward(net, chosen_error()))[good]  # the same rows in a batch without bad ones
        assert torch.equal(slope, torch.ones_like(slope))
        assert feedback.nonfinite_rows == 2
        assert (feedback.sample[:BATCH] == shown(error)).all()
        assert not shown(error)[bad].any()
        lit = sum(int((sign * shown(e) > 0).any(axis=1).sum()) for sign in (1, -1) for e in (error, chosen_error()))
        assert feedback.device.usage.frames == 4 * lit


def test_finite_errors_whose_sum_overflows_are_finite() -> None:
    net, error = make_net(), torch.full((BATCH, CLASSES), 3e38)
    with attach(net, after=nn.Tanh, device="digital") as feedback:
        backward(net, error)
        assert feedback.nonfinite_rows == 0
        assert (feedback.sample[:BATCH] == 1).all()


def test_a_grad_scaler_skips_the_step_that_overflows() -> None:
    """Scaled by 2^120 the error overflows; the scaler backs off, and the next step is taken."""
    net, error = make_net(), chosen_error() * 2.0**10
    before = copy.deepcopy(net.state_dict())
    optimiser = torch.optim.SGD(net.parameters(), 1e-4)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120, backoff_factor=2.0**-100)
    skipped = []
    with attach(net, after=nn.Tanh, device="digital", nonfinite="nan") as feedback:
        for _ in range(2):
            optimiser.zero_grad()
            x = torch.randn(BATCH, INPUTS, generator=torch.Generator().manual_seed(3))
            scaler.scale((net(x) * error).sum()).backward()
            scaler.step(optimiser)
            scaler.update()
            skipped.append(all(torch.equal(p, before[name]) for name, p in net.state_dict().items()))
        assert feedback.nonfinite_rows == BATCH
    assert skipped == [True, False]


# ---- number formats


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-6), (torch.float32, 1e-6), (torch.float16, 4e-3), (torch.bfloat16, 3e-2)],
)
def test_gradients_keep_the_format_of_the_net(dtype: torch.dtype, tolerance: float) -> None:
    """The projection is float32; the gradient of each parameter is what the formula says, in its own format."""
    net, error = make_net(dtype), chosen_error()
    exact = copy.deepcopy(net).double()
    with attach(net, after=nn.Tanh, device="digital") as feedback:
        at_first_layer = backward(net, error.to(dtype))
        matrix = feedback.device.effective_matrix()
    x = torch.randn(BATCH, INPUTS, generator=torch.Generator().manual_seed(3)).to(dtype).double()
    h = exact[:2](x).detach()
    delta = torch.from_numpy(feedback_by_hand(error, matrix)) * (1 - h**2)
    expected = {
        "0.weight": delta.T @ x,
        "0.bias": delta.sum(0),
        "2.weight": error.double().T @ h,
        "2.bias": error.sum(0),
    }
    assert at_first_layer.dtype == dtype
    for name, p in net.named_parameters():
        assert p.grad is not None
        assert p.grad.dtype == dtype
        distance = (p.grad.double() - expected[name]).norm() / expected[name].norm()
        assert distance < tolerance, name


def test_real_errors_reach_the_device_as_float32() -> None:
    net, error = make_net(torch.float64), chosen_error().double() / 3
    with attach(net, after=nn.Tanh, device="digital", ternarize=None) as feedback:
        backward(net, error)
        assert feedback.sample.dtype == np.float32
        assert (feedback.sample == error.numpy().astype(np.float32)).all()


# ---- the sample


def test_the_sample_is_the_last_256_vectors() -> None:
    net = make_net()
    errors = [chosen_error(rows, seed) for seed, rows in enumerate((100, 100, 100, 300, 20))]
    everything = np.concatenate([shown(error) for error in errors])
    ends = np.cumsum([len(error) for error in errors])
    with attach(net, after=nn.Tanh, device="digital") as feedback:
        nothing = feedback.sample
        assert nothing is None
        for error, end in zip(errors, ends, strict=True):
            backward(net, error)
            assert feedback.sample.dtype == np.int8
            assert np.array_equal(feedback.sample, everything[max(0, end - 256) : end])


def test_each_step_has_draws_of_its_own() -> None:
    """The call number of the stochastic encoder counts projections from 0."""
    net, error = make_net(), chosen_error()
    encoder = Ternarize(kind="stochastic", seed=5)
    with attach(net, after=nn.Tanh, device="digital", ternarize=encoder) as feedback:
        for _ in range(3):
            backward(net, error)
        expected = [encoder(error, call).vectors.numpy() for call in range(3)]
        assert np.array_equal(feedback.sample, np.concatenate(expected))
        assert not np.array_equal(expected[0], expected[1])


# ---- a feedback or device that is gone


def test_a_backward_after_close_says_so() -> None:
    net, error = make_net(), chosen_error()
    feedback = attach(net, after=nn.Tanh, device="digital")
    net(torch.randn(BATCH, INPUTS)).backward(error)
    output = net(torch.randn(BATCH, INPUTS))
    feedback.close()
    with pytest.raises(DeviceClosed, match="is closed"):
        output.backward(error)


def test_a_first_backward_after_close_opens_no_device() -> None:
    """It would never be closed again."""
    net = make_net()
    feedback = attach(net, after=nn.Tanh, device="digital")
    output = net(torch.randn(BATCH, INPUTS))
    feedback.close()
    with pytest.raises(FeedbackError, match=r"closed: run the backward pass before its close\(\)"):
        output.backward(chosen_error())
    with pytest.raises(FeedbackError, match="sized to the net at the first backward pass"):
        _ = feedback.device


def test_a_backward_after_the_feedback_is_gone_says_so() -> None:
    net = make_net()
    feedback = attach(net, after=nn.Tanh, device="digital")
    output = net(torch.randn(BATCH, INPUTS))
    feedback.detach()
    del feedback
    gc.collect()
    with pytest.raises(RuntimeError, match="no longer exists: keep the object that attach returned"):
        output.backward(chosen_error())


def test_a_closed_device_of_ones_own_says_so() -> None:
    net = make_net()
    device = open_device("digital", n_inputs=CLASSES, n_outputs=WIDTH)
    device.close()
    with attach(net, after=nn.Tanh, device=device), pytest.raises(DeviceClosed, match=r"call its open\(\)"):
        backward(net, chosen_error())


# ---- several planes


def test_bit_planes_are_projected_and_summed_with_their_weights() -> None:
    """Every plane is a vector of its own, + and - a pattern each, four frames a lit pattern."""
    net, error, bits = make_net(), chosen_error(), 3
    device = {"name": "emulator", "preset": "ideal"}
    with attach(net, after=nn.Tanh, device=device, ternarize=BitPlanes(bits)) as feedback:
        plan = feedback.plan(torch.randn(BATCH, INPUTS))
        assert (plan.vectors_per_step, plan.max_frames_per_step) == (bits * BATCH, 8 * bits * BATCH)
        found = backward(net, error)
        matrix = feedback.device.effective_matrix()
        usage, state = feedback.device.usage, feedback.state_dict()
    assert matrix is not None
    entries = error.double().numpy()
    whole = np.sign(entries) * np.ceil((2**bits - 1) * np.abs(entries) / np.abs(entries).max(1, keepdims=True) - 0.5)
    planes = [(np.abs(whole).astype(int) >> plane) & 1 for plane in range(bits)]
    lit = sum(int((plane * (sign * whole > 0)).any(1).sum()) for plane in planes for sign in (1, -1))
    assert (usage.vectors, usage.frames) == (bits * BATCH, 4 * lit)
    assert state["ternarize"] == {"bits": bits}

    lengths = np.linalg.norm(entries, axis=1) / np.linalg.norm(whole, axis=1)
    expected = (lengths[:, None] * whole) @ matrix.T.astype(np.float64) / np.sqrt(WIDTH)
    h = net[:2](torch.randn(BATCH, INPUTS, generator=torch.Generator().manual_seed(3))).detach().double().numpy()
    np.testing.assert_allclose(found.double().numpy(), expected * (1 - h**2), rtol=1e-5, atol=1e-6)


# ---- the operator, and what is called in its place


def test_what_looks_at_operators_sees_the_projection() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    net = make_net()
    with attach(net, after="1", device="digital"):

        def gradient(x: Tensor) -> Tensor:
            return torch.autograd.grad(net(x).square().sum(), net[0].weight)[0]  # type: ignore[arg-type]

        first, second = torch.randn(BATCH, INPUTS), torch.randn(BATCH, INPUTS)
        traced = make_fx(gradient)(first)
        assert "optical_dfa.project" in traced.code
        assert torch.equal(traced(second), gradient(second))  # not what it was for the first


def test_a_net_on_the_meta_device_has_shapes_of_gradients() -> None:
    net = make_net().to("meta")
    with attach(net, after="1", device="digital"):
        net(torch.randn(BATCH, INPUTS, device="meta")).square().sum().backward()
    assert isinstance(net[0].weight.grad, Tensor)
    assert net[0].weight.grad.is_meta


def test_an_error_with_the_negative_bit() -> None:
    found = []
    for view in (True, False):
        net = make_net()
        with attach(net, after="1", device="digital"):
            y = net(torch.ones(BATCH, INPUTS))
            y.register_hook(lambda error, view=view: torch._neg_view(error) if view else -error)
            y.square().sum().backward()
        found.append(net[0].weight.grad)
    assert torch.equal(found[0], found[1])  # type: ignore[arg-type]


def test_an_encoder_of_ones_own_is_asked() -> None:
    class Doubled(Ternarize):
        def __call__(self, error: Tensor, call: int = 0) -> Encoded:
            vectors, scale = super().__call__(error, call)
            return Encoded(vectors, 2 * scale)

    found = []
    for encoder in (Ternarize(), Doubled()):
        net = make_net()
        with attach(net, after="1", device="digital", ternarize=encoder):
            net(torch.ones(BATCH, INPUTS)).backward(chosen_error())
        found.append(net[0].weight.grad)
    assert torch.equal(2 * found[0], found[1])  # type: ignore[arg-type, operator]


@pytest.mark.parametrize("ternarize", [Ternarize(), BitPlanes(2)], ids=str)
def test_what_an_observer_saw_stays(ternarize: Ternarize | BitPlanes) -> None:
    """The device's answer is brought to its magnitude in place, but not under the eyes of an observer."""
    found = []
    for observed in (False, True):
        net, seen = make_net(), list[Tensor]()
        with attach(net, after="1", device="digital", ternarize=ternarize) as feedback:
            if observed:

                def keep(projection: Projection, seen: list[Tensor] = seen) -> None:
                    seen.append(projection.field)

                feedback.on_projection(keep)
            net(torch.ones(BATCH, INPUTS)).backward(chosen_error())
            if observed:
                vectors = ternarize(chosen_error()).vectors.numpy()
                assert np.array_equal(seen[0].numpy(), feedback.device.project(vectors))
        found.append(net[0].weight.grad)
    assert torch.equal(found[0], found[1])  # type: ignore[arg-type]
