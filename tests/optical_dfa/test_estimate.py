"""The cost model in closed form, laws and break-evens of known answer, and the command at toy size.

Nothing here looks at how long anything takes.
"""

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from typer.testing import CliRunner, Result

from optical_dfa.cli import app
from optical_dfa.config import RunConfig, load_config
from optical_dfa.devices import open_device
from optical_dfa.emulator import Apparatus
from optical_dfa.estimate import run
from optical_dfa.estimate.analysis import Comparison, fit_laws, on_axis
from optical_dfa.estimate.breakeven import faster_spans, largest_accepted, most_speedup
from optical_dfa.estimate.laws import fit, terms
from optical_dfa.estimate.measure import Effort, medians
from optical_dfa.estimate.model import Optics, dark_fraction, projection_cost
from optical_dfa.estimate.report import Estimate, Point, from_json, to_json
from optical_dfa.estimate.size import AXES, Size
from optical_dfa.estimate.tables import duration, energy, facts, sections, where
from optical_dfa.estimate.threads import all_threads
from optical_dfa.estimate.times import Times

APPARATUS = Apparatus(dmd_mirrors=1_039_680, camera_pixels=2_219_520, min_frame_time_us=500.0, power_w=30.0)
MNIST = Size(784, (512, 512), 10, 128)
TINY = {
    "model": {"hidden": [8]},
    "training": {"batch_size": 4, "epochs": 3, "threads": 1},
    "device": {"name": "emulator", "backend": "numpy"},
}


# ---- the model


@pytest.mark.parametrize(
    ("n_pixels", "frame_ms"),
    [(256, 0.5), (316_200, 0.5), (1_000_000, 1.401_8), (2_219_520, 3.006_25)],
)
def test_frame_time_is_the_vendors_rule(n_pixels: int, frame_ms: float) -> None:
    """2.6875 µs · rows + 32.25 µs + 50 µs: 1,088 rows take 3.006 ms; up to 155 rows the minimum of 500 µs holds."""
    cost = projection_cost(APPARATUS, 400.0, n_pixels, 1)
    rows = math.ceil(n_pixels / 2040)
    assert cost.seconds == pytest.approx(max(500, 2.6875 * rows + 82.25) * 1e-6)
    assert cost.seconds == pytest.approx(frame_ms * 1e-3, rel=1e-3)
    assert (cost.frames, cost.joules) == (1, 30 * cost.seconds)


def test_a_step_of_the_mnist_net() -> None:
    """8 frames a vector, 4 with one side dark; 128 vectors; 500 µs a frame; 30 W."""
    optics = Optics({"name": "emulator", "preset": "phase-stepping"})
    sized = optics.sized(MNIST.n_classes, MNIST.n_outputs)
    assert (sized.n_pixels, sized.frames_per_vector, sized.frame_time_us, sized.power_w) == (256, 8, 500, 30)
    lit, half = (optics.cost(10, 512, 128, fraction) for fraction in (0.0, 0.5))
    assert (lit.frames, lit.seconds, lit.joules) == pytest.approx((1024, 0.512, 15.36))
    assert (half.frames, half.seconds, half.joules) == pytest.approx((512, 0.256, 7.68))
    with pytest.raises(ValueError, match=r"dark_fraction must be from 0 to 1; got 1\.5"):
        optics.cost(10, 512, 128, 1.5)


@pytest.mark.parametrize("preset", ["phase-stepping", "off-axis"])
def test_the_model_counts_what_the_device_counts(preset: str) -> None:
    """Frames, seconds and joules of `Usage` are those of the model at the dark fraction of the vectors, and F₀."""
    vectors = np.array([[1, 0, -1], [0, 0, -1], [0, -1, 0], [1, 1, 0], [1, 0, -1], [1, 0, -1]], np.int8)
    assert dark_fraction(vectors) == 3 / 12
    options: dict[str, Any] = {"apparatus": {"min_frame_time_us": 700.0, "power_w": 12.0}}
    steps = 1 if preset == "off-axis" else 4
    options |= {"backend": "numpy", "preset": preset, "readout": {"probe_every": 3}}
    with open_device("emulator", n_inputs=3, n_outputs=5, **options) as device:
        first = replace(device.usage)
        device.project(vectors)
        usage = device.usage
        assert (first.frames, usage.frames) == (steps, steps * (1 + 9 + 2))
    cost = Optics({"name": "emulator", **options}).cost(3, 5, len(vectors), dark_fraction(vectors))
    spent = (usage.frames - first.frames, usage.device_seconds - first.device_seconds)
    assert (*spent, usage.device_joules - first.device_joules) == pytest.approx(
        (cost.frames, cost.seconds, cost.joules)
    )


def test_dark_fraction_of_nothing_is_zero() -> None:
    assert dark_fraction(np.zeros((0, 3), np.int8)) == 0


def test_a_device_without_optics_is_stood_in_for() -> None:
    digital, emulator = Optics({"name": "digital", "seed": 3}), Optics({"name": "emulator"})
    assert (digital.stands_in, emulator.stands_in) == (True, False)
    assert digital.sized(10, 512) == emulator.sized(10, 512)


def test_sizes_in_multiply_adds() -> None:
    weights = 784 * 512 + 512 * 512 + 512 * 10
    assert (MNIST.weights, MNIST.n_outputs, MNIST.activations) == (weights, 512, 128 * 1024)
    assert MNIST.weight_macs == 128 * weights
    assert MNIST.error_macs == 128 * (512 * 512 + 512 * 10)
    assert MNIST.projection_macs == 128 * 10 * 512
    assert replace(MNIST, layout="independent").n_outputs == 1024
    moved = {name: axis.at(MNIST, 3) for name, axis in AXES.items()}
    assert [axis.of(moved[name]) for name, axis in AXES.items()] == [3, 3, 3, 3]
    assert moved["depth"].hidden == (512, 512, 512)
    assert on_axis("batch", MNIST, [MNIST, *moved.values()]) == [MNIST, moved["batch"]]


def test_most_speedup_is_below_two() -> None:
    assert [most_speedup(stages) for stages in (1, 3, 99)] == [1, 1.5, 1.98]


# ---- laws and break-evens


def test_fit_finds_the_coefficients() -> None:
    sizes = [AXES["width"].at(MNIST, width) for width in (16, 64, 256, 1024, 4096)]
    true = {"layer": 4e-5, "multiply-add": 2.5e-11}
    seconds = [sum(true[name] * terms("bp_backward", size)[name] for name in true) for size in sizes]
    law = fit("width", "bp_backward", sizes, seconds)
    assert law.coefficients == pytest.approx(true)
    assert law.worst_error < 1e-9
    assert law.seconds(MNIST) == pytest.approx(3 * 4e-5 + 2.5e-11 * (MNIST.weight_macs + MNIST.error_macs))


def test_fit_is_never_negative_and_states_its_error() -> None:
    """Falling times have no law with positive terms but the constant.

    Of 2 and 1 it is the c of least Σ (c - t)² / t: c = 2 / (1/2 + 1/1) = 4/3, off by a third at both.
    """
    sizes = [AXES["batch"].at(MNIST, batch) for batch in (1, 10)]
    law = fit("batch", "projection", sizes, [2.0, 1.0])
    assert min(law.coefficients.values()) >= 0
    assert [law.seconds(size) for size in sizes] == pytest.approx([4 / 3, 4 / 3], rel=1e-3)
    assert law.worst_error == pytest.approx(1 / 3, rel=1e-2)


@pytest.mark.parametrize("crossing", [1, 2, 3, 57, 4096, 999_999, 1_000_000])
def test_one_crossing_is_found_to_the_integer(crossing: int) -> None:
    limit = 1_000_000
    above = faster_spans(lambda value: crossing - 0.5, lambda value: value, limit)
    below = faster_spans(lambda value: value, lambda value: crossing + 0.5, limit)
    assert above == [(crossing, limit)]
    assert below == [(1, crossing)]


def test_spans_between_and_around() -> None:
    assert faster_spans(lambda value: (value - 30.0) * (value - 500), lambda value: 0.0, 10_000) == [(31, 499)]
    outside = faster_spans(lambda value: -(value - 30.0) * (value - 500), lambda value: 0.0, 10_000)
    assert outside == [(1, 29), (501, 10_000)]
    assert faster_spans(lambda value: 1.0, lambda value: 1.0, 10_000) == []
    assert faster_spans(lambda value: 0.0, lambda value: 1.0, 1) == [(1, 1)]


def test_largest_accepted() -> None:
    for most in (0, 1, 63, 100):
        assert largest_accepted(most.__ge__, 100) == most
    assert largest_accepted((999).__ge__, 100) == 100
    assert Optics({"name": "emulator"}).accepts(1_039_680, 4_439_040)
    assert not Optics({"name": "emulator"}).accepts(10, 4_439_041)
    assert not Optics({"name": "emulator"}).accepts(1_039_681, 10)
    off_axis = Optics({"name": "emulator", "preset": "off-axis"})
    outputs = 2 * 2_219_520 * np.pi / 4 / 6**2  # two outputs a mode, π/4 of a mode for each grain of 6 x 6 pixels
    assert off_axis.accepts(10, round(0.99 * outputs))
    assert not off_axis.accepts(10, round(1.01 * outputs))
    assert not off_axis.accepts(10, 1 << 31)


def synthetic(size: Size) -> Times:
    """A machine that does 10^10 multiply-adds a second, with no overhead."""
    rate = 1e-10
    return Times(
        repetitions=1,
        forward=rate * size.weight_macs,
        bp_backward=rate * (size.weight_macs + size.error_macs),
        dfa_forward=rate * size.weight_macs,
        dfa_backward=rate * size.weight_macs,
        projection=rate * size.projection_macs,
        optimizer=0.0,
    )


def test_break_even_of_known_laws() -> None:
    """What DFA spares, `error_macs` · 10^-10 s, must exceed the optics: 8 or 4 frames of 500 µs a vector.

    Depth d: batch · (512² (d - 1) + 5120) > batch · 4 ms · 10^10, hence d > 1 + (4·10^7 - 5120) / 512² = 153.6.
    Classes c: 512² + 512 c > 4·10^7, c > 77,613. Batch: both sides grow with it, never. Width w: w² + 10 w > 4·10^7,
    w > 6,319.6. The projections: 10^-10 s · c · w of 512 c > 4·10^7 from c = 78,126; in width, 10 w > 4·10^7 gives
    4,000,001, but there a frame is longer: 4.4·10^6 outputs take 3 ms, and the digital product stays ahead.
    """
    sizes = [MNIST, *run.sizes_around(MNIST, 5e9)]
    points = [Point(size, synthetic(size)) for size in sizes]
    optics = Optics({"name": "emulator"})
    comparison = Comparison(MNIST, optics, fit_laws(MNIST, points), {"all lit": 0.0, "as displayed": 0.5}, points)
    found = comparison.break_even()
    starts = {
        (each.axis, each.reference): [first for first, last in each.spans if last == each.limit]
        for each in found
        if each.case == "all lit"
    }
    assert starts == {
        ("width", "digital projection"): [],
        ("width", "backward pass"): [6320],
        ("depth", "digital projection"): [],
        ("depth", "backward pass"): [154],
        ("batch", "digital projection"): [],
        ("batch", "backward pass"): [],
        ("classes", "digital projection"): [78_126],
        ("classes", "backward pass"): [77_614],
    }
    assert {each.axis: each.limit for each in found} == {
        "width": 4_439_040, "depth": 10_000, "batch": 1_000_000, "classes": 1_039_680,
    }  # fmt: skip
    half = next(each for each in found if (each.axis, each.case, each.reference[0]) == ("depth", "as displayed", "b"))
    assert half.spans == [(78, 10_000)]  # 1 + (2·10^7 - 5120) / 512² = 77.3
    assert half.measured_to == 32
    assert where(half) == "from ~78"
    assert where(replace(half, measured_to=78)) == "from 78"
    assert where(replace(half, spans=[(1, 10_000)])) == "everywhere"
    assert where(replace(half, spans=[(1, 20), (30, 1234)])) == "up to 20, 30 … ~1,200"
    assert where(replace(half, spans=[])) == "nowhere"

    (depth,) = (curves for curves in comparison.curves(found) if curves.axis == "depth")
    assert depth.values[0] == 1
    assert depth.values[-1] == 3 * 154
    for value, bp, dfa, light in zip(
        depth.values, depth.bp, depth.optical_dfa["all lit"], depth.optics["all lit"], strict=True
    ):
        size = AXES["depth"].at(MNIST, value)
        assert (bp, dfa, light) == pytest.approx(
            (1e-10 * (size.weight_macs + size.error_macs), 1e-10 * size.weight_macs + 0.512, 0.512)
        )


# ---- the whole


@pytest.fixture(scope="module")
def tiny() -> Estimate:
    """An estimate of a tiny net, three sizes around it."""
    with pytest.MonkeyPatch.context() as patch:
        few(patch)
        return run.estimate(RunConfig.model_validate(TINY), name="tiny", quick=True)


def few(patch: pytest.MonkeyPatch) -> None:
    """Measure few sizes, few times: what they take is not looked at."""
    patch.setattr(run, "QUICK", Effort(fewest=2, most=2, seconds=0.0))
    patch.setattr(run, "FACTORS", {"width": (2,), "depth": (2,), "batch": (0.5, 1), "classes": (2,)})


def test_large_nets_are_measured_up_to_a_few_times_their_own_cost() -> None:
    large = Size(784, (8192, 8192), 10, 128)
    around = list(run.sizes_around(large, 2e7))
    own = large.weight_macs + large.error_macs
    assert all(size.weight_macs + size.error_macs <= 2.5 * own for size in around)
    counts = {axis: len(on_axis(axis, large, [large, *around])) for axis in AXES}
    assert min(counts.values()) >= 3, counts
    assert list(run.sizes_around(Size(4, (1,), 2, 1), 0.0))  # one of everything still has neighbours


def test_estimate_of_a_tiny_net(tiny: Estimate) -> None:
    assert tiny.size == Size(64, (8,), 10, 4)
    assert [point.size for point in tiny.points] == [
        tiny.size, Size(64, (16,), 10, 4), Size(64, (8, 8), 10, 4), Size(64, (8,), 10, 2), Size(64, (8,), 20, 4),
    ]  # fmt: skip
    assert tiny.times == tiny.points[0].times
    assert min(vars(point.times)[name] for point in tiny.points for name in vars(tiny.times)) > 0
    assert tiny.times.repetitions == 2
    assert (tiny.steps_per_epoch, tiny.epochs, tiny.threads, tiny.clock, tiny.stands_in) == (360, 3, 1, "cpu", False)
    assert tiny.vectors_looked_at == 4
    assert len(tiny.laws) == 4 * 3
    assert len(tiny.break_even) == 4 * 2 * 2
    assert [curves.axis for curves in tiny.curves] == list(AXES)
    assert tiny.whole_camera.n_outputs == 4_439_040


def test_a_softmax_at_the_start_leaves_half_of_the_sides_dark(tiny: Estimate) -> None:
    """e = p - y: -0.9 at the label, +0.1 elsewhere, so the + side stays below half of the largest |e|."""
    lit, shown = tiny.spent
    assert (lit.case, shown.case, shown.dark_fraction) == ("all lit", "as displayed", 0.5)
    assert (lit.vector.frames, shown.vector.frames) == (8, 4)
    assert (lit.step.frames, lit.epoch.frames, lit.run.frames) == (32, 1437 * 8, 1437 * 8 * 3)
    assert lit.run.seconds == pytest.approx(1437 * 8 * 3 * 500e-6)
    assert lit.run.joules == pytest.approx(30 * lit.run.seconds)


def test_json_holds_all_of_it(tiny: Estimate) -> None:
    text = to_json(tiny)
    assert from_json(text) == tiny
    assert json.loads(text)["schema"] == 1
    with pytest.raises(ValidationError, match="schema"):
        from_json(text.replace('"schema"', '"scheme"'))


def test_tables_add_up(tiny: Estimate) -> None:
    optics, step, _ = sections(tiny)
    assert [line[1] for line in optics.lines] == ["8", "32", "11,496", "34,488", "4", "16", "5,748", "17,244"]
    times = tiny.times
    bp = times.forward + times.bp_backward + times.optimizer
    light = times.dfa_forward + times.dfa_backward + 0.016 + times.optimizer
    by_name = {line[0]: line[1:] for line in step.lines}
    assert by_name["backpropagation"][-2:] == (f"{1e3 * bp:.2f}", "1.00")
    assert by_name["DFA, optics all lit"][2:] == (
        "16.00", f"{1e3 * times.optimizer:.2f}", f"{1e3 * light:.2f}", f"{light / bp:.2f}",
    )  # fmt: skip
    real = {**tiny.config, "feedback": {"layout": "shared", "ternarize": None}}
    assert "encoder" not in dict(facts(tiny))
    assert dict(facts(replace(tiny, config=real)))["encoder"].startswith("the default one")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.7e-9, "2.70 ns"), (5e-4, "500 µs"), (0.9999, "1.00 s"), (0.512, "512 ms"), (119, "119 s"), (240, "4.00 min"),
     (7200, "2.00 h")],
)  # fmt: skip
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("joules", "text"), [(0.12, "120 mJ"), (15.36, "15.4 J"), (72e3, "72.0 kJ"), (3e6, "3.00 MJ")])
def test_energy(joules: float, text: str) -> None:
    assert energy(joules) == text


def test_medians() -> None:
    names = ("forward", "bp_backward", "dfa_forward", "dfa_backward", "projection", "optimizer")
    rows = [dict.fromkeys(names, value) for value in (1.0, 9.0, 2.0)]
    assert medians(rows) == Times(3, *[2.0] * 6)


def test_threads_are_set_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTICAL_DFA_THREADS", "5")
    before = torch.get_num_threads()
    with all_threads(1):
        assert (torch.get_num_threads(), os.environ["OPTICAL_DFA_THREADS"]) == (1, "1")
    assert (torch.get_num_threads(), os.environ["OPTICAL_DFA_THREADS"]) == (before, "5")
    monkeypatch.delenv("OPTICAL_DFA_THREADS")
    with all_threads(1):
        pass
    assert "OPTICAL_DFA_THREADS" not in os.environ


# ---- the command


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `optical-dfa estimate` on tiny.yaml in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    few(monkeypatch)
    Path("tiny.yaml").write_text(json.dumps(TINY))

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["estimate", *arguments])

    return call


def test_command_prints_and_writes(command: Any) -> None:
    result = command("tiny.yaml", "--quick", "-o", "out")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "tiny: 64-8-10 tanh, batch 4"
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "In out: estimate.md, estimate.json, break-even.png"
    saved = from_json(Path("out/estimate.json").read_text())
    assert saved.config == load_config("tiny.yaml").as_dict()
    page = Path("out/estimate.md").read_text()
    assert "`optical-dfa estimate tiny.yaml --quick -o out` printed this." in page
    assert all(f"## {section.title}\n" in page for section in sections(saved))
    assert Path("out/break-even.png").read_bytes().startswith(b"\x89PNG")


def test_command_with_a_device_without_optics(command: Any) -> None:
    result = command(
        "tiny.yaml", "--quick", "--threads", "1", "--set", "device=digital", "--set", "feedback.ternarize=null"
    )
    assert (result.exit_code, result.stderr) == (0, "")
    text = " ".join(result.stdout.split())
    assert "preset phase-stepping (device 'digital' has no optics: this preset stands in)" in text
    assert "encoder the default one; the real error of this configuration cannot be displayed" in text
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent.yaml",), "error: absent.yaml: cannot be read: No such file or directory\n"),
        (("tiny.yaml", "--threads", "0"), "error: 0 threads: must be from 1 to "),
        (("tiny.yaml", "-o", "tiny.yaml"), "error: -o tiny.yaml: is a file: give a folder\n"),
        (("tiny.yaml", "--set", "training.epocs=3"), "error: --set training.epocs=3: training.epocs: unknown key."),
        (("tiny.yaml", "--set", "model.hidden=[4439041]"), "error: device 'emulator' cannot be made:"),
    ],
)
def test_bad_input_is_one_message_and_status_2(command: Any, arguments: tuple[str, ...], message: str) -> None:
    result = command(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(message)


def test_without_matplotlib_the_figure_is_refused_before_anything_is_measured(
    command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optical_dfa.figures.find_spec", lambda name: None)
    result = command("tiny.yaml", "-o", "out")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: figures need matplotlib: pip install 'optical_dfa[plot]'\n"
    assert not Path("out").exists()
