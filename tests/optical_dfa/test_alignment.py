"""Alignment with the true gradient, against formulas written out by hand; and that measuring leaves no trace."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from optical_dfa import Feedback, FeedbackError, Ternarize, attach, feedback_point
from optical_dfa.alignment import Alignment, AlignmentMonitor, JsonLines, TensorBoard
from optical_dfa.alignment.figure import draw_alignment
from optical_dfa.alignment.formulas import Sums, expected_cosine
from optical_dfa.devices import open_device
from optical_dfa.measure import save_matrix
from optical_dfa.run_errors import MissingExtra, RunFolderError

SHAPE = (6, 9, 8, 4)
"""Inputs, two hidden layers, classes."""


def make_net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    n_in, first, second, n_out = SHAPE
    return nn.Sequential(
        nn.Linear(n_in, first), nn.Tanh(), nn.Linear(first, second), nn.Tanh(), nn.Linear(second, n_out)
    )


def batch(n: int = 16, seed: int = 1, n_features: int = 6, n_classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, n_features, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, n_classes, (n,), generator=generator)


def measured(feedback: Feedback, loss: Callable[[], Tensor]) -> Alignment:
    """One measurement of one step."""
    monitor = feedback.alignment(1)
    with monitor.step(loss):
        torch.autograd.backward(loss())
    assert monitor.latest is not None
    return monitor.latest


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


def mean_cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of each sample, then the mean."""
    return float(torch.stack([(u * v).sum() / (u.norm() * v.norm()) for u, v in zip(a, b, strict=True)]).mean())


# ---- formulas


@pytest.mark.parametrize("layout", ["shared", "independent"])
def test_two_hidden_layers_by_hand(layout: str) -> None:
    """Every number of a measurement, in float64 from δ = (F e) ∘ (1 - h²); the projection itself is float32."""
    net, (x, y) = make_net().double(), batch()
    with attach(net, after=nn.Tanh, device="digital", ternarize=None, layout=layout) as feedback:  # type: ignore[arg-type]
        found = measured(feedback, lambda: cross_entropy(net(x), y))
        matrix = feedback.device.effective_matrix()
    assert matrix is not None
    t = torch.from_numpy(matrix).double()
    _, first, second, n_out = SHAPE
    f1 = t[:first] / first**0.5
    f2 = (t[:second] if layout == "shared" else t[first : first + second]) / second**0.5

    w1, b1, w2, b2, w3, b3 = (parameter.detach() for parameter in net.parameters())
    h1 = torch.tanh(x @ w1.T + b1)
    h2 = torch.tanh(h1 @ w2.T + b2)
    e = (torch.softmax(h2 @ w3.T + b3, 1) - torch.eye(n_out, dtype=torch.float64)[y]) / len(x)
    signal = {"1": e @ f1.T, "3": e @ f2.T}
    delta = {"1": signal["1"] * (1 - h1**2), "3": signal["3"] * (1 - h2**2)}
    true_signal = {"3": e @ w3}
    true_delta = {"3": true_signal["3"] * (1 - h2**2)}
    true_signal["1"] = true_delta["3"] @ w2
    true_delta["1"] = true_signal["1"] * (1 - h1**2)

    def close(value: float) -> object:
        return pytest.approx(value, rel=1e-4, abs=1e-6)

    for point in ("1", "3"):
        one = found.points[point]
        assert one.delta == close(mean_cosine(delta[point], true_delta[point]))
        assert one.optical == close(mean_cosine(signal[point], true_signal[point]))
        assert one.ternary == close(one.optical)
        assert one.exact == close(one.optical)
    joined = [torch.cat([by["1"], by["3"]], 1) for by in (delta, true_delta)]
    assert found.delta == close(mean_cosine(*joined))

    gradient = {
        "0.weight": (delta["1"].T @ x, true_delta["1"].T @ x),
        "0.bias": (delta["1"].sum(0), true_delta["1"].sum(0)),
        "2.weight": (delta["3"].T @ h1, true_delta["3"].T @ h1),
        "2.bias": (delta["3"].sum(0), true_delta["3"].sum(0)),
        "4.weight": (e.T @ h2,) * 2,
        "4.bias": (e.sum(0),) * 2,
    }
    assert list(found.parameters) == list(gradient)
    for name, (given, true) in gradient.items():
        assert found.parameters[name].cosine == close(cosine(given, true))
        assert found.parameters[name].norm_ratio == close(float(given.norm() / true.norm()))
        assert found.parameters[name].sign_agreement == float((given.sign() == true.sign()).double().mean())
        assert found.parameters[name].n_values == given.numel()
    for layer in ("0", "2", "4"):
        pair = [
            torch.cat([gradient[f"{layer}.{kind}"][side].flatten() for kind in ("weight", "bias")]) for side in (0, 1)
        ]
        assert found.layers[layer].cosine == close(cosine(*pair))
    whole = [torch.cat([one[side].flatten() for one in gradient.values()]) for side in (0, 1)]
    assert found.gradient.cosine == close(cosine(*whole))

    assert found.weights == {
        "2.weight": close(cosine(w2, f2 @ f1.T)),
        "4.weight": close(cosine(w3, f2.T)),
    }
    pair = [torch.cat([one.flatten() for one in side]) for side in ((w2, w3), (f2 @ f1.T, f2.T))]
    assert found.weight == close(cosine(*pair))


@pytest.fixture
def transposed(tmp_path: Path) -> Iterator[tuple[nn.Sequential, Feedback]]:
    """A net of one hidden layer whose feedback matrix is its output weight transposed."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    weight = net.get_parameter("2.weight").detach().numpy()
    save_matrix(tmp_path / "w.safetensors", np.ascontiguousarray(weight.T), outputs_per_mode=1)
    with (
        open_device("measured", path=tmp_path / "w.safetensors") as device,
        attach(net, after=nn.Tanh, device=device, ternarize=None) as feedback,
    ):
        yield net, feedback


def test_feedback_by_the_transposed_weight_is_fully_aligned(transposed: tuple[nn.Sequential, Feedback]) -> None:
    net, feedback = transposed
    x, y = batch()
    found = measured(feedback, lambda: cross_entropy(net(x), y))
    assert found.points["1"].delta == pytest.approx(1, abs=1e-6)
    assert found.points["1"].optical == pytest.approx(1, abs=1e-6)
    assert found.gradient.cosine > 0.9
    assert found.parameters["0.weight"].cosine == pytest.approx(1, abs=1e-6)
    assert found.parameters["0.weight"].sign_agreement == 1
    assert found.weights == {"2.weight": pytest.approx(1, abs=1e-6)}
    matrix = feedback.device.effective_matrix()
    assert matrix is not None
    gain = np.linalg.norm(matrix) / np.linalg.norm(
        net.get_parameter("2.weight").detach().numpy()
    )  # the device has unit gain
    assert found.parameters["0.weight"].norm_ratio == pytest.approx(gain / 8**0.5, rel=1e-5)


def test_ternarisation_and_noise_apart() -> None:
    """On the emulator, against products with its matrix; the expected cosine is that of the SNR of all rows."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 400), nn.Tanh(), nn.Linear(400, 12)).double()
    x, y = batch(64, n_classes=12)
    device = {"name": "emulator", "camera": {"read_noise_e": 60.0}, "photometry": {"signal_e_per_feature": 25.0}}
    with attach(net, after=nn.Tanh, device=device) as feedback:
        kept: list[tuple[Tensor, ...]] = []
        feedback.on_projection(lambda one: kept.append((one.error, one.encoded, one.field)))
        found = measured(feedback, lambda: cross_entropy(net(x), y)).projection
        t = torch.from_numpy(feedback.device.effective_matrix())
    ((error, encoded, field),) = kept
    assert found is not None
    exact, ternary = error.double() @ t.double().T, encoded.double() @ t.double().T
    assert found.ternary == pytest.approx(mean_cosine(ternary, exact), abs=1e-5)
    assert found.noise == pytest.approx(mean_cosine(field.double(), ternary), abs=1e-5)
    assert found.optical == pytest.approx(mean_cosine(field.double(), exact), abs=1e-5)
    snr = float(ternary.square().sum() / (field - ternary).square().sum())
    assert 10 < found.snr_db == pytest.approx(10 * math.log10(snr), abs=1e-3)
    assert found.expected_noise == pytest.approx((1 + 1 / snr) ** -0.5, abs=1e-6)
    # noise is nearly alike for all rows, and independent of what ternarisation leaves out
    assert found.noise == pytest.approx(found.expected_noise, abs=0.01)
    assert found.optical == pytest.approx(found.ternary * found.expected_noise, abs=0.01)
    assert found.noise < 0.99
    assert found.dark == 0


def test_an_exact_device_has_no_noise() -> None:
    net, (x, y) = make_net().double(), batch()
    with attach(net, after=nn.Tanh, device="digital") as feedback:
        found = measured(feedback, lambda: cross_entropy(net(x), y)).projection
    assert found is not None
    assert (found.snr_db, found.expected_noise) == (math.inf, 1)
    assert found.noise == pytest.approx(1, abs=1e-6)
    assert found.optical == pytest.approx(found.ternary, abs=1e-6)
    assert 0.5 < found.ternary < 1


def test_expected_cosine_of_an_snr() -> None:
    assert expected_cosine(0) == pytest.approx(1 / math.sqrt(2))
    assert expected_cosine(20) == pytest.approx(1 / math.sqrt(1.01))
    assert expected_cosine(math.inf) == 1


def test_sums_of_long_sparse_and_tiny_gradients() -> None:
    given, true = torch.tensor([3.0, -4.0, 0.0, 1e-30]), torch.tensor([6.0, 8.0, 1.0, 1e-30])
    found = Sums.of(given, true).alignment()
    assert found.cosine == pytest.approx((18 - 32) / (5 * math.sqrt(101)))
    assert found.sign_agreement == pytest.approx(2 / 3)  # the zero does not count, the tiny one does
    assert Sums.of(given.to_sparse(), true) == Sums.of(given, true)
    assert math.isnan(Sums.of(torch.zeros(3), torch.ones(3)).alignment().cosine)


@pytest.mark.parametrize("kind", ["sequence", "image"])
def test_positions_by_hand(kind: str) -> None:
    """One vector for each position of a sequence; of an image, the vector of the sample at all its positions."""
    torch.manual_seed(0)
    if kind == "sequence":
        net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()
        x = torch.randn(5, 3, 6, dtype=torch.float64)
    else:
        net = nn.Sequential(
            nn.Conv2d(2, 8, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
        ).double()
        x = torch.randn(5, 2, 6, 6, dtype=torch.float64)
    weights = torch.randn(net(x).shape, dtype=torch.float64)

    def loss() -> Tensor:
        total: Tensor = (net(x) * weights).sum()
        return total

    with attach(net, after=["1"], device="digital", ternarize=Ternarize(threshold=0.3)) as feedback:
        found = measured(feedback, loss).points["1"]
        t = torch.from_numpy(feedback.device.effective_matrix()).double()
    rows = weights.reshape(-1, 4)
    shown = (rows > 0.3 * rows.abs().amax(1, keepdim=True)).double() - (
        rows < -0.3 * rows.abs().amax(1, keepdim=True)
    ).double()
    scale = rows.norm(dim=1, keepdim=True) / shown.norm(dim=1, keepdim=True)
    h = net[:2](x).detach().requires_grad_()
    (true,) = torch.autograd.grad((net[2:](h) * weights).sum(), h)
    for field, said in ((scale * shown @ t.T, found.ternary), (rows @ t.T, found.exact)):
        signal = field.reshape(5, 3, 8) if kind == "sequence" else field[:, :, None, None].expand(5, 8, 4, 4)
        assert said == pytest.approx(mean_cosine(signal, true), abs=1e-5)
    assert found.optical == pytest.approx(found.ternary, abs=1e-6)


def test_a_point_that_runs_twice_and_one_in_place() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice, self.act, self.out = nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.out(self.act(self.twice(self.act(self.twice(x)))))
            return out

    torch.manual_seed(0)
    net, (x, y) = Net().double(), batch()
    with attach(net, after=["act"], device="digital", ternarize=None) as feedback:
        found = measured(feedback, lambda: cross_entropy(net(x), y))
        t = torch.from_numpy(feedback.device.effective_matrix()).double()
    w, b = net.twice.weight.detach(), net.twice.bias.detach()
    first = x @ w.T + b
    second = first.relu() @ w.T + b
    logits = net.out(second.relu()).detach()
    e = torch.softmax(logits, 1) - torch.eye(4, dtype=torch.float64)[y]
    true_second = e @ net.out.weight.detach() * (second > 0)
    true_first = true_second @ w * (first > 0)
    given = [e @ t.T * (one > 0) for one in (first, second)]
    pairs = [
        (u, v)
        for side, true in zip(given, (true_first, true_second), strict=True)
        for u, v in zip(side, true, strict=True)
        if u.norm() and v.norm()
    ]
    assert found.points["act"].delta == pytest.approx(float(np.mean([cosine(u, v) for u, v in pairs])), abs=1e-5)
    assert found.weights == {}  # one weight, in two places


def test_without_the_derivative_of_the_activation() -> None:
    """The feedback is δ itself, the true δ has its derivative."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    x, y = batch()
    with attach(net, after=nn.Tanh, device="digital", ternarize=None, derivative=False, scale=2.0) as feedback:
        found = measured(feedback, lambda: cross_entropy(net(x), y))
        t = torch.from_numpy(feedback.device.effective_matrix()).double()
    w1, b1, w2, b2 = (parameter.detach() for parameter in net.parameters())
    h = torch.tanh(x @ w1.T + b1)
    e = torch.softmax(h @ w2.T + b2, 1) - torch.eye(4, dtype=torch.float64)[y]
    assert found.points["1"].delta == pytest.approx(mean_cosine(e @ t.T, (e @ w2) * (1 - h**2)), abs=1e-5)
    assert found.points["1"].optical == pytest.approx(mean_cosine(e @ t.T, e @ w2), abs=1e-5)
    given, true = (2 * e @ t.T).T @ x, ((e @ w2) * (1 - h**2)).T @ x
    assert found.parameters["0.weight"].norm_ratio == pytest.approx(float(given.norm() / true.norm()), rel=1e-5)
    assert found.weights == {"2.weight": pytest.approx(cosine(w2, t.T), abs=1e-5)}


def test_marked_points_are_measured_by_their_parameters() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.out = nn.Linear(6, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.out(feedback_point(torch.tanh(self.first(x))))
            return out

    torch.manual_seed(0)
    net, (x, y) = Net().double(), batch()
    with attach(net, device="digital") as feedback:
        found = measured(feedback, lambda: cross_entropy(net(x), y))
    assert found.points == {}
    assert math.isnan(found.delta)
    assert list(found.parameters) == ["first.weight", "first.bias", "out.weight", "out.bias"]
    assert found.parameters["out.weight"].cosine == pytest.approx(1)
    assert found.projection is not None
    assert str(found).startswith("Alignment at step 0")


# ---- no trace


class Noisy(nn.Module):
    """Dropout, norm statistics, and a buffer that counts."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.Tanh(), nn.Dropout(0.4))
        self.more, self.out = nn.Sequential(nn.Linear(10, 8), nn.Tanh()), nn.Linear(8, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        out: Tensor = self.out(self.more(self.body(x)))
        return out


def trained(every: int | None) -> tuple[dict[str, Tensor], object, Tensor, dict[str, object]]:
    """Weights and buffers after seven steps on the noisy emulator; what the device knows; random numbers; usage."""
    net = Noisy()
    torch.manual_seed(5)
    with attach(net, after=nn.Tanh, device="emulator", ternarize=Ternarize(kind="stochastic")) as feedback:
        monitor = None if every is None else feedback.alignment(every)
        optimizer = torch.optim.Adam(net.parameters(), 1e-2)
        for number in range(7):
            x, y = batch(seed=number)
            x = x.float()
            optimizer.zero_grad()
            if monitor is None:
                torch.autograd.backward(cross_entropy(net(x), y))
            else:
                with monitor.step(lambda x=x, y=y: cross_entropy(net(x), y)):  # type: ignore[misc]
                    torch.autograd.backward(cross_entropy(net(x), y))
            optimizer.step()
        usage = {name: value for name, value in vars(feedback.device.usage).items() if name != "wall_seconds"}
        return net.state_dict(), feedback.state_dict(), torch.get_rng_state(), usage


@pytest.mark.parametrize("every", [1, 3])
def test_training_is_the_same_to_the_bit(every: int) -> None:
    plain, watched = trained(None), trained(every)
    assert plain[0].keys() == watched[0].keys()
    for name, value in plain[0].items():
        assert torch.equal(value, watched[0][name]), name
    assert plain[0]["calls"] == 7
    assert plain[1] == watched[1]
    assert torch.equal(plain[2], watched[2])
    assert plain[3] == watched[3]


def test_both_passes_see_the_same_dropout_masks_and_statistics() -> None:
    """Then the gradient of the top, which is exact, is the same to the bit in both."""
    net, (x, y) = Noisy(), batch()
    with attach(net, after=nn.Tanh, device="digital") as feedback:
        found = measured(feedback, lambda: cross_entropy(net(x.float()), y))
    top = found.parameters["out.weight"]
    assert top.cosine == pytest.approx(1, abs=1e-15)
    assert (top.norm_ratio, top.sign_agreement) == (1, 1)


def test_a_measurement_costs_one_forward_one_backward_and_no_projection() -> None:
    net, (x, y) = make_net().double(), batch()
    forwards, backwards, projections = [], [], []
    with attach(net, after=nn.Tanh, device="digital") as feedback:
        net.register_forward_hook(lambda *_: forwards.append(1))
        net[4].register_forward_hook(lambda _, __, output: output.register_hook(lambda _: backwards.append(1)) and None)
        feedback.on_projection(lambda _: projections.append(1))
        found: list[Alignment] = []
        monitor = feedback.alignment(3, found.append)
        for _ in range(7):
            net.zero_grad()
            with monitor.step(lambda: cross_entropy(net(x), y)):
                torch.autograd.backward(cross_entropy(net(x), y))
        assert [one.step for one in found] == [0, 3, 6]
        assert feedback.device.usage.vectors == 7 * len(x)
    assert (len(forwards), len(backwards), len(projections)) == (7 + 3, 7 + 3, 7)


def test_true_gradients_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the second backward pass returns is without memory of its own: each was compared and dropped."""
    returned: list[Tensor] = []
    grad: Any = torch.autograd.grad

    def spy(*args: object, **options: object) -> object:
        gradients = grad(*args, **options)
        returned.extend(gradients)
        return gradients

    monkeypatch.setattr(torch.autograd, "grad", spy)
    net, (x, y) = make_net().double(), batch()
    with attach(net, after=nn.Tanh, device="digital") as feedback:
        measured(feedback, lambda: cross_entropy(net(x), y))
    assert len(returned) == 6
    assert all(one.untyped_storage().nbytes() == 8 for one in returned)


def test_a_measurement_takes_no_more_memory_than_one_gradient() -> None:
    """Above the peak of a step without it, by what the allocator was asked for."""
    torch.manual_seed(0)
    layers = [layer for _ in range(4) for layer in (nn.Linear(512, 512), nn.Tanh())]
    net = nn.Sequential(*layers, nn.Linear(512, 10))
    x, y = torch.randn(16, 512), torch.randint(0, 10, (16,))

    def loss() -> Tensor:
        return cross_entropy(net(x), y)

    def peak(step: Callable[[], Any]) -> int:
        net.zero_grad()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            step()
        assert profile.profiler is not None
        events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
        changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
        return int(np.cumsum(changes).max())

    with attach(net, after=nn.Tanh, device="digital") as feedback:
        torch.autograd.backward(loss())  # the device is made
        plain = peak(lambda: torch.autograd.backward(loss()))
        with_measurement = peak(lambda: measured(feedback, loss))
    gradient = sum(p.numel() * p.element_size() for p in net.parameters())
    assert plain > gradient
    assert with_measurement - plain < gradient


def test_hooks_are_gone_after_a_step_also_after_one_that_fails() -> None:
    net, (x, y) = make_net().double(), batch()

    def hooks() -> list[int]:
        return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in net.modules()]

    def fails() -> Tensor:
        raise KeyError

    with attach(net, after=nn.Tanh, device="digital") as feedback:
        before = hooks()
        measured(feedback, lambda: cross_entropy(net(x), y))
        assert hooks() == before
        net.zero_grad()
        with pytest.raises(ZeroDivisionError), feedback.alignment(1).step(lambda: cross_entropy(net(x), y)):
            raise ZeroDivisionError
        assert hooks() == before
        assert not feedback._projector.observers
        with pytest.raises(KeyError), feedback.alignment(1).step(fails):
            torch.autograd.backward(cross_entropy(net(x), y))
        assert hooks() == before
        assert feedback.mode == "dfa"


# ---- misuse


def test_misuse_is_refused() -> None:
    net, (x, y) = make_net().double(), batch()

    def loss() -> Tensor:
        return cross_entropy(net(x), y)

    with attach(net, after=nn.Tanh, device="digital") as feedback:
        with pytest.raises(ValueError, match="every must be a number of steps, 1 or more; got 0"):
            feedback.alignment(0)
        monitor = feedback.alignment(1)
        with pytest.raises(FeedbackError, match="the step made no gradients"), monitor.step(loss):
            loss()
        torch.autograd.backward(loss())
        with (
            pytest.raises(FeedbackError, match=r"'0\.weight' has a gradient of an earlier backward"),
            monitor.step(loss),
        ):
            torch.autograd.backward(loss())
        net.zero_grad()
        feedback.mode = "bp"
        with pytest.raises(FeedbackError, match="the mode is 'bp'"), monitor.step(loss):
            torch.autograd.backward(loss())


# ---- logs and figure


@pytest.fixture(scope="module")
def history() -> list[Alignment]:
    found: list[Alignment] = []
    net, (x, y) = make_net().double(), batch(64)
    with attach(net, after=nn.Tanh, device="emulator") as feedback:
        monitor: AlignmentMonitor = feedback.alignment(10, found.append)
        optimizer = torch.optim.Adam(net.parameters(), 5e-3)
        for _ in range(31):
            optimizer.zero_grad()
            with monitor.step(lambda: cross_entropy(net(x), y)):
                torch.autograd.backward(cross_entropy(net(x), y))
            optimizer.step()
    return found


def test_lines_of_json_come_back(history: list[Alignment], tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "log.jsonl")
    assert log.read() == []
    for one in history:
        log(one)
    assert log.read() == history
    assert [json.loads(line)["step"] for line in log.path.read_text().splitlines()] == [0, 10, 20, 30]
    with log.path.open("a") as file:
        file.write('{"step": 4')  # the process was killed
    log.keep_before(20)
    assert log.read() == history[:2]
    log.path.write_text("nonsense\n")
    with pytest.raises(RunFolderError, match="damaged"):
        log.read()


def test_infinities_and_gaps_come_back() -> None:
    net, (x, y) = make_net().double(), batch()
    with attach(net, after=nn.Tanh, device="digital") as feedback:
        one = measured(feedback, lambda: cross_entropy(net(x), y))
    assert one.projection is not None
    assert one.projection.snr_db == math.inf
    assert Alignment.from_dict(json.loads(one.to_json())) == one
    assert "Infinity" not in one.to_json()


def test_tensorboard_gets_every_number(history: list[Alignment], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with TensorBoard(tmp_path) as log:
        for one in history:
            log(one)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {f"alignment/{name}" for name in history[-1].scalars()}
    for name, value in history[-1].scalars().items():
        last = events.Scalars(f"alignment/{name}")[-1]
        assert (last.step, last.value) == (30, pytest.approx(value, rel=1e-6))


def test_without_tensorboard_it_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optical_dfa.alignment.logs.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'optical_dfa\[tensorboard\]'"):
        TensorBoard(tmp_path)


def test_the_table(history: list[Alignment]) -> None:
    lines = str(history[-1]).splitlines()
    one = history[-1].points["3"]
    assert lines[0] == "Alignment at step 30"
    assert lines[2].split() == ["feedback", "point", "cos(δ,", "δ*)", "optical", "ternary", "exact"]
    assert lines[4].split() == ["3", *(f"{value:.3f}" for value in (one.delta, one.optical, one.ternary, one.exact))]
    assert max(map(len, lines)) <= 120


def test_the_figure(history: list[Alignment], tmp_path: Path) -> None:
    draw_alignment(history, "title", tmp_path / "a.svg")
    drawn = (tmp_path / "a.svg").read_text("utf-8")
    for text in ("signal at each feedback point", "2.weight", "ternarisation alone", "training step"):
        assert f"<!-- {text}" in drawn
