"""The device of a bench of one's own: gain, averaging, checks of what the bench answers, calibration, refusals."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from device_kinds import ternary
from plain_bench import PlainBench, gaussian_fields

from optical_dfa.devices import (
    BenchDevice,
    CheckedBench,
    CountedBench,
    DeviceFault,
    DeviceTimeout,
    DeviceUnavailable,
    InvalidConfig,
    SaturationWarning,
    make_device,
)
from optical_dfa.devices.calibration import CalibrationRecord, calibration_bytes
from optical_dfa.emulator import FrameStamp

N, SHAPE, REFERENCE_E = 12, (8, 16), 2500.0


def bench(**options: Any) -> PlainBench:
    """Twelve features of 100 e- on 128 pixels, beside a reference of 2500 e-; no noise."""
    columns = gaussian_fields((N, *SHAPE), 100.0, seed=1)
    return PlainBench(columns, **{"reference": math.sqrt(REFERENCE_E), **options})


def device(source: Any, **options: Any) -> BenchDevice:
    sizes = {"n_inputs": 10, "n_outputs": 200, "reference_e": REFERENCE_E}
    made = make_device("bench", bench=source, **{**sizes, **options})
    assert isinstance(made, BenchDevice)
    return made


def true_rows(source: PlainBench) -> npt.NDArray[np.float64]:
    """(200, 10) real and imaginary part of each pixel's field, by turns."""
    fields = source.columns[:10].reshape(10, -1).T[:100]
    return np.stack([fields.real, fields.imag], axis=1).reshape(200, 10)


@pytest.mark.parametrize("integrity", ["marks", "none"])
@pytest.mark.parametrize("steps", [3, 4])
def test_fields_are_the_product_with_the_matrix_of_the_bench(integrity: str, steps: int) -> None:
    """Each output times a gain of its own; without noise, to float32. 128 pixels give 200 outputs of 256."""
    source = bench()
    with device(source, integrity=integrity, readout={"steps": steps}) as opened:
        vectors = ternary(20, 10)
        fields = opened.project(vectors)
        gain = opened.calibration()["gain"]
    expected = vectors @ true_rows(source).T * gain
    np.testing.assert_allclose(fields, expected, atol=3e-5 * np.abs(expected).max())


def test_every_output_has_unit_gain() -> None:
    """Over many random vectors. The gain of an output is off by 1/√(2 K), K = 256, and the mean of field² over V
    vectors by √(2/V): both about normal; 200 outputs within 5.5 σ: false alarms 200 · 4e-8 = 1e-5.
    """
    source = bench()
    generator = np.random.default_rng(2)
    vectors = np.where(generator.random((4000, 10)) < 0.5, 0, generator.choice([-1, 1], (4000, 10))).astype(np.int8)
    with device(source, integrity="none") as opened:
        power = (opened.project(vectors).astype(np.float64) ** 2).mean(axis=0) / np.abs(vectors).sum(axis=1).mean()
    sigma = math.sqrt(2 / 256 + 2 / 4000)
    assert np.abs(power - 1).max() < 5.5 * sigma
    assert abs(power.mean() - 1) < 5.5 * sigma / math.sqrt(10)  # ten independent columns, whatever the outputs


def test_noise_does_not_change_the_gain() -> None:
    """The product of two showings has the power of the field alone. At an SNR of 0 dB the mean square of one would be
    twice that. The noise leaves each of 256 · 200 products off by √3 of the mean, all of them by 0.8 %: 5 σ are 4 %.
    """
    with device(bench(), integrity="none") as quiet:
        expected = quiet.calibration()["gain"]
    # a side has the variance (Is + R² + s²) / (8 R²) an output, 8 features light 400 e- a side: 0 dB at s² = 2 R² · 400
    noise_e = math.sqrt(2 * 400 * REFERENCE_E)
    with device(bench(read_noise_e=noise_e), integrity="none") as noisy:
        found = noisy.calibration()["gain"]
    alive = found > 0
    assert alive.mean() > 0.9
    assert np.mean(1 / found[alive] ** 2) / np.mean(1 / expected[alive] ** 2) == pytest.approx(1, abs=0.04)


def test_averaging_divides_the_noise() -> None:
    """Variance over n showings of a pattern: 1/n. 200 vectors of 200 outputs: a ratio off by √(4/40000) = 1 %, 5 σ."""
    vectors = ternary(200, 10)
    errors = []
    for average in (1, 4):
        source = bench(read_noise_e=200.0, seed=average)
        with device(source, integrity="none", average=average) as opened:
            fields = opened.project(vectors).astype(np.float64) / opened.calibration()["gain"]
            assert opened.info.frames_per_vector == 8 * average
        errors.append(((fields - vectors @ true_rows(source).T) ** 2).mean())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)


def test_dark_sides_are_shown_unless_they_are_skipped() -> None:
    """Four steps a side: one vector in five of `ternary` is empty, one lights one side only, and one the other."""
    counts = {}
    for skip in (False, True):
        with device(bench(), integrity="none", skip_dark_side=skip) as opened:
            before = opened.usage.frames
            opened.project(ternary(10, 10))
            counts[skip] = (opened.usage.frames - before, opened.usage.frames_skipped)
    assert counts == {False: (4 * 16, 4 * 4), True: (4 * 12, 4 * 8)}


def test_dead_outputs_are_zero() -> None:
    responsivity = np.ones(SHAPE)
    responsivity[0, 3] = 0
    with device(bench(responsivity=responsivity), integrity="none") as opened:
        fields = opened.project(ternary(5, 10))
        gain = opened.calibration()["gain"]
    assert np.flatnonzero(gain == 0).tolist() == [6, 7]
    assert not fields[:, 6:8].any()


def test_a_bench_that_follows_nothing_is_a_fault() -> None:
    dark = dataclasses.replace(bench(), columns=np.zeros((N, *SHAPE), complex))
    closed = device(dark, integrity="none")
    with pytest.raises(DeviceFault, match="no output of the bench follows what is shown, in 256 vectors shown twice"):
        closed.open()


@pytest.mark.parametrize(
    ("options", "readout", "message"),
    [
        ({"has_phase_modulator": False}, {}, "phase stepping needs a bench with a reference arm and a phase modulator"),
        ({"reference": None}, {"steps": 3}, "phase stepping needs a bench with a reference arm and a phase modulator"),
        ({}, {"kind": "phase_steping"}, "Did you mean 'phase_stepping'"),
    ],
)
def test_a_readout_that_the_bench_has_no_parts_for_is_refused(options: Any, readout: Any, message: str) -> None:
    for source in (bench(**options), lambda: bench(**options)):
        with pytest.raises(InvalidConfig, match=message):
            device(source, readout=readout).open()


def test_a_bench_without_phase_modulator_is_read_by_anchors() -> None:
    """Anchors of two elements behind ten features; the bench would fail if it were given phases or a reference."""
    source = bench(reference=None, has_phase_modulator=False)
    readout = {"kind": "anchored", "n_anchors": 1, "features_per_anchor": 2}
    with device(source, n_outputs=100, readout=readout) as opened:
        vectors = ternary(30, 10)
        fields = opened.project(vectors)
        np.testing.assert_allclose(fields[0:4].sum(axis=0), opened.project(vectors[0:4]).sum(axis=0), atol=1e-3)
        both = opened.project(np.array([[1, 0, -1] + [0] * 7, [1] + [0] * 9, [0, 0, -1] + [0] * 7], np.int8))
    np.testing.assert_allclose(both[0], both[1] + both[2], atol=2e-4 * np.abs(both).max())


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("n_inputs", 13, "n_inputs must be at most 12, the elements of a frame; got 13"),
        ("n_outputs", 257, "n_outputs must be at most 256, the outputs of an image; got 257"),
        ("average", 0, "average must be an int ≥ 1; got 0"),
        ("gain_vectors", 0, "gain_vectors must be an int ≥ 1; got 0"),
        ("integrity", "hope", "integrity must be marks or counters or none; got 'hope'"),
        ("integrity", "counters", "bench must be a bench with a method frame_counters"),
        ("exposure_us", 0.0, "exposure_us must be a finite number > 0, microseconds; got 0.0"),
        (
            "bench",
            "no_colon",
            "bench must be a bench, a function, text package.module:function, or the preset file of a",
        ),
        ("bench", 3, "bench must be an object with info, frame_time_us, configure, expose; it lacks"),
    ],
)
def test_impossible_options_are_refused(option: str, value: Any, message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        device(**{"source": bench(), option: value} if option != "bench" else {"source": value})


def test_a_bench_that_cannot_be_imported_is_unavailable() -> None:
    with pytest.raises(DeviceUnavailable, match="bench 'nowhere:bench' cannot be imported"):
        device("nowhere:bench").open()


def test_what_a_function_makes_is_made_by_open_and_closed_by_close() -> None:
    calls: list[str] = []

    class Closing(PlainBench):
        def close(self) -> None:
            calls.append("close")

    def make() -> Closing:
        calls.append("make")
        return Closing(bench().columns, reference=math.sqrt(REFERENCE_E))

    made = device(make)
    assert calls == []
    with made:
        first = made.project(ternary(4, 10))
        gain = made.calibration()["gain"]
    assert calls == ["make", "close"]
    with made:  # opened again it keeps its calibration
        np.testing.assert_array_equal(made.calibration()["gain"], gain)
        np.testing.assert_array_equal(made.project(ternary(4, 10)), first)
    with pytest.raises(InvalidConfig, match="the bench cannot be used: n_inputs must be at most 12"):
        device(make, n_inputs=13).open()
    assert calls == ["make", "close"] * 3


class Odd(CheckedBench):
    """Answers as it is told to."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        super().__init__(_Answering(answer))


class _Answering(PlainBench):
    def __init__(self, answer: Any) -> None:
        super().__init__(gaussian_fields((N, *SHAPE), 100.0, 1), reference=50.0, bits=10)
        self.answer = answer

    def expose(self, frames: Any, **_: Any) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (TimeoutError("2 images missing"), DeviceTimeout, r"a request of 3 frames in time \(2 images missing\)"),
        (ConnectionResetError("unplugged"), DeviceUnavailable, r"the bench failed \(unplugged\): look at its cables"),
        (
            np.zeros((2, *SHAPE), np.uint16),
            DeviceFault,
            r"must answer with images of shape \(3, 8, 16\); got uint16 \(2",
        ),
        (None, DeviceFault, r"of shape \(3, 8, 16\); got NoneType"),
        (np.zeros((3, *SHAPE)), DeviceFault, "must be uint8 or uint16; got float64"),
        (np.full((3, *SHAPE), 1024, np.uint16), DeviceFault, "images of 10 bits must be below 1024; got 1024"),
    ],
)
def test_what_a_bench_must_not_answer(answer: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Odd(answer).expose(np.zeros((3, N), np.uint8), at=FrameStamp(0, 0))


def test_a_bug_of_the_driver_stays_what_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        Odd(ZeroDivisionError()).expose(np.zeros((3, N), np.uint8))


class Counting(PlainBench):
    """Its camera numbers images; of the given frames it loses the image."""

    lost: tuple[int, ...] = ()

    def expose(self, frames: Any, **options: Any) -> Any:
        images = super().expose(frames, **options)
        numbers = np.arange(len(frames) + len(self.lost))
        self._numbers = np.setdiff1d(numbers, self.lost)[: len(frames)]
        return images

    def frame_counters(self) -> npt.NDArray[np.int64]:
        return self._numbers


def test_a_gap_in_the_counters_is_a_fault() -> None:
    source = Counting(bench().columns, reference=50.0)
    frames = np.zeros((9, N), np.uint8)
    assert CountedBench(source).expose(frames).shape == (9, *SHAPE)
    source.lost = (4,)
    with pytest.raises(
        DeviceFault, match="behind frame 3 of a request of 9 the camera counted from 3 to 5: images were"
    ):
        CountedBench(source).expose(frames)
    source.lost = ()
    with device(source, integrity="counters") as opened:
        fields = opened.project(ternary(3, 10))
        source.lost = (7,)
        with pytest.raises(DeviceFault, match="behind frame 6"):
            opened.project(ternary(3, 10))
        source.lost = ()
        np.testing.assert_array_equal(opened.project(ternary(3, 10)), fields)


class Dropping(PlainBench):
    """Loses the image of one frame, if it is told to: those behind it move up."""

    drop: int | None = None

    def expose(self, frames: Any, **options: Any) -> Any:
        images = super().expose(frames, **options)
        if self.drop is None:
            return images
        order = np.delete(np.arange(len(images)), self.drop)
        return images[np.append(order, order[-1])]


def test_marks_find_a_dropped_frame_and_without_them_it_is_silent() -> None:
    """Without marks the fields of a vector turn into those of a mixture: correlation with the truth below 0.9."""
    vectors = ternary(10, 10)
    for integrity in ("marks", "none"):
        source = Dropping(bench().columns, reference=50.0)
        with device(source, integrity=integrity) as opened:
            true = opened.project(vectors)
            source.drop = 9
            if integrity == "marks":
                with pytest.raises(DeviceFault, match="are not those of their frames"):
                    opened.project(vectors)
            else:
                wrong = opened.project(vectors)
                assert np.corrcoef(wrong.ravel(), true.ravel())[0, 1] < 0.9


def test_a_saved_calibration_is_used_in_place_of_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "calibration.safetensors"
    maps = {"readout": {"calibration": {"dark_frames": 4, "reference_frames": 4}}, "integrity": "none"}
    source = bench(black_dn=7.0)
    with device(source, **maps) as opened:
        fields = opened.project(ternary(6, 10))
        calibration = opened.calibration()
        record = CalibrationRecord(device="bench", fingerprint=opened.fingerprint, date="", settings={})
    assert set(calibration) == {"gain", "map.dark_dn", "map.reference_e"}
    path.write_bytes(calibration_bytes(calibration, record))
    source.stamps.clear()
    with device(source, **maps, calibration=path) as opened:
        assert source.stamps == []  # nothing was displayed
        np.testing.assert_array_equal(opened.project(ternary(6, 10)), fields)
    for other, message in (
        ({"medium": "another"}, "belongs to device"),
        ({"calibration": tmp_path / "none"}, "cannot be read"),
    ):
        with pytest.raises(InvalidConfig, match=message):
            device(source, **{**maps, "calibration": path, **other}).open()
    path.write_bytes(calibration_bytes({"fields": fields}, record))
    with pytest.raises(InvalidConfig, match="holds no gain of the outputs"):
        device(source, **maps, calibration=path).open()


def test_saturation_is_said_once() -> None:
    source = bench(bits=8, gain_dn_per_e=0.07)
    with device(source, integrity="none") as opened:
        with pytest.warns(SaturationWarning, match="of the bench are saturated: lower exposure_us or reference_e"):
            opened.project(ternary(5, 10))
        opened.project(ternary(5, 10))


def test_the_phase_of_the_bench_is_followed_by_probes() -> None:
    """A phase that walks by 1 rad in 50 ms, w = 4.5 rad/√s. A vector takes 8 frames of 500 µs, a probe 4 more.

    With a probe before each vector the phase walks on for 6 ms at most: a gain of E[cos φ] = 1 - w²T/4 = 0.97. Without,
    after 300 vectors (1.2 s, 24 rad²) nothing is left of it: of as many independent angles, a mean cosine of 0 ± 0.15.
    """
    from optical_dfa.devices import load_preset
    from optical_dfa.emulator import EmulatedBench

    walk = {"piston_walk_rad": 4.5}
    parameters = load_preset("phase-stepping", {"medium": walk}).bench
    vector = np.zeros((600, 10), np.int8)
    vector[:, 0], vector[:, 1] = 1, -1
    found = {}
    for probe_every in (0, 1):
        source = EmulatedBench(12, 128, 0, parameters)
        readout = {"probe_every": probe_every} if probe_every else {}
        with device(source, integrity="none", readout=readout, reference_e=1500.0) as opened:
            fields = opened.project(vector).astype(np.float64)
            first = fields[:3].mean(axis=0)
            found[probe_every] = np.mean([np.corrcoef(field, first)[0, 1] for field in fields[300:]])
            state = opened.state_dict()
            expected = opened.project(vector[:7])
            opened.load_state_dict(state)
            np.testing.assert_array_equal(opened.project(vector[:7]), expected)
    assert found[1] > 0.9
    assert abs(found[0]) < 0.5


def test_marks_are_counted_and_set_by_the_readout() -> None:
    """32 frames of four lit vectors: marks before, behind and after each 8, two frames each."""
    with device(bench(), readout={"sync_every": 8}) as opened:
        before = opened.usage.frames
        opened.project(ternary(5, 10)[[0, 2, 3, 4]])
        assert opened.usage.frames - before == 32 + 2 * 5
        assert opened.info.mark_frames == 2 / 8
    with pytest.raises(InvalidConfig, match=r"readout\.sync_every must be 0 unless integrity is marks; got 8"):
        device(bench(), readout={"sync_every": 8}, integrity="none")
