"""Piston phase: without a probe it flips the sign of projections, with one it is taken out, as far as theory says."""

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from plain_bench import PlainBench, gaussian_fields

from optical_dfa.devices import DigitalDevice, EmulatedDevice, InvalidConfig, PhaseStepping, load_preset, make_device
from optical_dfa.devices.emulated import CALIBRATION_STREAM
from optical_dfa.devices.readouts import noise
from optical_dfa.devices.readouts.tracking import PhaseTracker, Track
from optical_dfa.emulator import FrameStamp

FRAME_S = 500e-6
OFF_AXIS: dict[str, Any] = {"kind": "off_axis"}
Real = npt.NDArray[np.float64]


def device(walk: float, every: int, preset: str = "ideal", **options: Any) -> EmulatedDevice:
    sections = {"medium": {"piston_walk_rad": walk, **options.pop("medium", {})}}
    sections["readout"] = {"probe_every": every, **options.pop("readout", {})}
    sizes = {"n_inputs": 12, "n_outputs": 120}
    made = make_device("emulator", preset=preset, **{**sizes, **sections, **options})
    assert isinstance(made, EmulatedDevice)
    return made


def one_sided(n: int, n_inputs: int = 12) -> npt.NDArray[np.int8]:
    vectors = np.random.default_rng(n).integers(0, 2, (n, n_inputs), np.int8)
    vectors[:, 0] = 1
    return vectors


def gains(found: npt.NDArray[np.float32], vectors: npt.NDArray[np.int8]) -> Real:
    """Slope of each field against the exact one: cos of the phase left in it."""
    exact = (
        DigitalDevice(n_inputs=vectors.shape[1], n_outputs=found.shape[1]).open().project(vectors).astype(np.float64)
    )
    slopes: Real = (found * exact).sum(axis=1) / np.square(exact).sum(axis=1)
    return slopes


def left_rad2(walk: float, steps: int, every: int) -> Real:
    """Variance of the walk from the mean of the probe's frames to each frame of the vectors behind it, (frames,)."""
    frame = steps + np.arange(every * steps, dtype=np.float64)  # the probe's are 0 … steps - 1
    variance: Real = walk**2 * FRAME_S * (frame - steps + 1 + (steps - 1) * (2 * steps - 1) / (6 * steps))
    return variance


@pytest.mark.parametrize(
    ("readout", "steps", "every"), [({}, 4, 8), ({}, 4, 32), ({"steps": 3}, 3, 16), (OFF_AXIS, 1, 64)]
)
def test_the_probe_leaves_what_the_walk_does_until_the_next(readout: dict[str, Any], steps: int, every: int) -> None:
    """Gain E[cos φ] = mean of exp(-variance/2), variance 0.5 rad² at the end of an interval.

    Over 400 intervals: the means of cos over an interval, measured among themselves, know it to 5 σ.
    """
    walk = math.sqrt(0.5 / (FRAME_S * steps * every))
    vectors = one_sided(400 * every)
    grain: dict[str, Any] = {"grain": {"size_px": 4.0}} if steps == 1 else {}
    with device(walk, every, readout=readout, n_outputs=40, **grain) as tracked:
        slopes = gains(tracked.project(vectors), vectors).reshape(400, every)
    each = slopes.mean(axis=1)
    expected = np.exp(-left_rad2(walk, steps, every) / 2).mean()
    assert 0.85 < expected < 0.92
    assert each.mean() == pytest.approx(expected, abs=5 * each.std() / math.sqrt(400))
    # the first vector behind a probe has lost hardly anything, the last most
    first, last = (
        np.exp(-left_rad2(walk, steps, every)[part] / 2).mean() for part in (slice(steps), slice(-steps, None))
    )
    for found, gain in ((slopes[:, 0], first), (slopes[:, -1], last)):
        assert found.mean() == pytest.approx(gain, abs=5 * found.std() / math.sqrt(400))


def test_without_a_probe_the_sign_is_lost() -> None:
    """After 8 s of 10 rad/√s the phase is anywhere, w²t = 800 rad². With a probe 4 frames before, w²t = 0.3: 6 σ."""
    vectors = one_sided(4000)
    with device(10.0, 0) as free, device(5.0, 1) as tracked:
        lost, kept = gains(free.project(vectors), vectors), gains(tracked.project(vectors), vectors)
    assert abs(lost.mean()) < 0.5
    assert 0.3 < np.mean(lost < 0) < 0.7
    assert kept.min() > 0


def test_vibration_is_noise_of_probe_and_vector_alike() -> None:
    """σ of each frame, φ the mean of the probe's four: E[cos] = exp(-σ²/2 · (1 + 1/4)), to 5 σ of 2,000 vectors.

    The vibration during F₀ stays in all of them.
    """
    vectors = one_sided(2000)
    with device(0.0, 1, medium={"vibration_rad": 0.1}) as tracked:
        slopes = gains(tracked.project(vectors), vectors)
    at_first = tracked.preset.bench.medium.phase_rad(0, CALIBRATION_STREAM, np.arange(4, dtype=np.uint64), np.zeros(4))
    expected = math.exp(-(0.1**2) / 2 * 1.25) * math.cos(at_first.mean())
    assert slopes.mean() == pytest.approx(expected, abs=5 * slopes.std() / math.sqrt(2000))


def test_noise_of_the_measured_phase() -> None:
    """1/(2 · modes · SNR), each mode with the noise of its own light; 1,000 probes know it to 4.5 %, 22 % are 5 σ.

    F₀ has as much noise, the same in all: it is their mean.
    """
    with device(0.0, 1, "phase-stepping") as tracked:
        tracker, track = tracked._tracker, tracked._track
        assert tracker is not None
        assert track is not None
        probes = [tracker.read_probe(FrameStamp(0, 4 * number)).amplitude[0] for number in range(1000)]
        phases = tracker.follow(track, probes, 1000)[0][1:]
        field = track.first
    light, camera = tracked.preset.bench.photometry, tracked.preset.bench.camera
    signal_e = np.square(np.abs(field))
    options = (light.reference_e, 4, camera.read_noise_e, 1 / camera.gain_dn_per_e)
    variance_e = np.array([noise.phase_stepping_variance_e(float(signal), *options) for signal in signal_e])
    expected = (signal_e * variance_e).sum() / 2 / signal_e.sum() ** 2
    assert expected == pytest.approx(1 / (2 * 60 * 1200), rel=0.5)  # two features, 31 dB
    assert phases.var() == pytest.approx(expected, rel=0.22)
    assert abs(phases.mean()) < 5 * math.sqrt(expected)


def test_a_medium_that_becomes_another_does_not_lose_the_phase() -> None:
    """In 16 segments F₀ is renewed 56 times, each time to √(0.12 / 500 modes) = 15 mrad: 0.12 rad in the end.

    The walk from probe to vector adds 0.07 rad: 5 σ are 0.67 rad.

    The field is then that of later matrices, whose products are what the ideal bench without walk gives.
    """
    n, tau_s = 3000, 0.7
    vectors = one_sided(n)
    sections: dict[str, Any] = {"medium": {"decorrelation_tau_s": tau_s}, "n_outputs": 1000}
    with device(0.0, 1, **sections) as still:
        true = still.project(vectors)
    with device(1.5, 1, **sections) as tracked:
        found = tracked.project(vectors)
    with device(1.5, 0, **sections) as free:
        lost = free.project(vectors[:1500])
    gain = (found * true).sum(axis=1) / np.square(true).sum(axis=1)
    assert np.array_equal(tracked._bench.parameters.medium.mixture(np.array([n * 8 * FRAME_S]))[0], [16])
    assert gain.min() > math.cos(0.67)
    assert (lost * true[:1500]).sum(axis=1).min() < 0


@pytest.mark.parametrize("fidelity", ["frames", "statistical"])
def test_outputs_do_not_depend_on_splits_and_a_resumed_device_goes_on(fidelity: str) -> None:
    """To the bit, with dark sides, zero vectors and an odd number of outputs; the probe is shown before each third."""
    vectors = np.random.default_rng(2).integers(-1, 2, (23, 12), np.int8)
    vectors[3:6] = np.abs(vectors[3:6])
    vectors[8:10] = 0
    photometry = {"signal_e_per_feature": 25.0}
    options: dict[str, Any] = {"fidelity": fidelity, "n_outputs": 121, "seed": 3, "photometry": photometry}
    with device(5.0, 3, "worst-case", **options) as whole:
        expected = whole.project(vectors)
    parts = []
    with device(5.0, 3, "worst-case", **options) as split:
        for part in np.split(vectors, [1, 4, 5, 9, 15]):
            parts.append(split.project(part))
            state = split.state_dict()
            split = device(5.0, 3, "worst-case", **options)
            split.load_state_dict(state)
            split.open()
    np.testing.assert_array_equal(np.concatenate(parts), expected)
    usage = whole.usage
    displayed = 21  # patterns come in pairs: the worst case leaks
    assert usage.frames == 4 * (2 * displayed + displayed // 3) + 4
    assert usage.frames_skipped == 4 * 2 * 2
    assert usage.device_seconds == pytest.approx(usage.frames * FRAME_S)
    assert whole.info.probe_frames == 4 / 3
    assert split.state_dict() == whole.state_dict()


def test_statistical_fidelity_meets_the_same_phases() -> None:
    """Number for number, since the probes are computed frame by frame in both; and the same frames."""
    vectors = np.random.default_rng(2).integers(-1, 2, (50, 12), np.int8)
    vectors[3:6], vectors[8:10] = np.abs(vectors[3:6]), 0
    found = []
    for fidelity in ("frames", "statistical"):
        with device(5.0, 4, "phase-stepping", fidelity=fidelity, photometry={"signal_e_per_feature": 25.0}) as tracked:
            fields = tracked.project(vectors)
            lit = vectors.any(axis=1)
            counted = (tracked.usage.frames, tracked.usage.frames_skipped, tracked.state_dict())
            found.append((counted, gains(fields[lit], vectors[lit])))
    assert found[0][0] == found[1][0]
    np.testing.assert_allclose(found[0][1], found[1][1], atol=0.12)  # 5 σ of 120 outputs at 12 dB or better
    assert np.abs(found[0][1] - 1).max() > 0.01


@pytest.mark.parametrize("opened", [False, True])
def test_a_state_from_before_the_first_call_begins_anew(opened: bool) -> None:
    tracked = device(5.0, 2, "phase-stepping", photometry={"signal_e_per_feature": 5000.0})
    before = tracked.open().state_dict() if opened else tracked.state_dict()
    with tracked:
        with pytest.warns(match="saturated"):
            first = tracked.project(one_sided(5))
        tracked.load_state_dict(before)
        np.testing.assert_array_equal(tracked.project(one_sided(5)), first)


def test_a_tracker_of_any_bench_turns_fields_back() -> None:
    """A bench whose phase jumps from call to call, by hand: fields turn back to those of the first probe, to 1e-12."""
    fields = gaussian_fields((6, 5, 8), 50, 0)
    bench = PlainBench(fields, math.sqrt(900.0))
    tracker = PhaseTracker(PhaseStepping(bench, 900.0), 2)
    track, frames = tracker.start(FrameStamp(0, 0))
    assert frames == 4
    patterns = np.random.default_rng(5).integers(0, 2, (5, 6), np.uint8)
    begins = np.array([True, False, True, True, True])
    for angle in (0.0, 2.5, -1.0):
        bench = PlainBench(fields * np.exp(1j * angle), math.sqrt(900.0))
        turned = PhaseTracker(PhaseStepping(bench, 900.0), 2)
        reading, track = turned.read(patterns, begins, FrameStamp(0, 4), track)
        exact = np.tensordot(patterns.astype(float), fields, 1).reshape(5, -1)
        np.testing.assert_allclose(reading.amplitude[:, 0::2] + 1j * reading.amplitude[:, 1::2], exact, atol=1e-11)
        assert reading.frames == 4 * (5 + 2)
        assert math.remainder(track.phase_rad - angle, 2 * math.pi) == pytest.approx(0, abs=1e-12)
    assert track.vectors == 12
    assert Track.from_state(track.state_dict()).state_dict() == track.state_dict()


@pytest.mark.parametrize(
    ("readout", "message"),
    [
        ({"probe_every": -1}, "probe_every must be an int ≥ 0; 0: never; got -1"),
        ({"kind": "anchored", "probe_every": 8}, "readout.probe_every: not of the anchored readout: a phase that all"),
    ],
)
def test_refusals(readout: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        make_device("emulator", n_inputs=3, n_outputs=4, readout=readout)


def test_the_summary_has_it() -> None:
    lines = load_preset("phase-stepping", {"readout": {"probe_every": 64}}).summary().splitlines()
    assert [" ".join(line.split()) for line in lines[-3:]] == [
        "readout.kind phase_stepping",
        "readout.steps 4",
        "readout.probe_every 64 vectors",
    ]


def test_without_a_probe_nothing_is_added() -> None:
    plain = make_device("emulator", n_inputs=3, n_outputs=4)
    assert isinstance(plain, EmulatedDevice)
    assert plain.info.probe_frames == 0
    with plain:
        assert plain.usage.frames == 0
        assert plain.state_dict()["position"] == {"stream": 0, "frame": 0}
    with pytest.raises(ValueError, match="every must be an int ≥ 1, vectors; got 0"):
        PhaseTracker(plain._readout, 0)
    assert dataclasses.asdict(plain.preset.readout)["probe_every"] == 0
