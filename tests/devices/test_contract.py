"""What every projection device promises, on the digital device, two presets of the emulator and a matrix file."""

import hashlib
import json

import numpy as np
import pytest
from device_kinds import EXACT_KINDS, KINDS, any_kind, closed, counts, every_kind, opened, ternary

from optical_dfa.devices import (
    FingerprintMismatch,
    Usage,
    emulated,
)
from optical_dfa.emulator import reference
from optical_dfa.emulator.matrix import UNIT


@every_kind
def test_info(kind: str) -> None:
    info = closed(kind).info
    assert (info.name, info.n_inputs, info.n_outputs) == (KINDS[kind][0], 30, 21)
    assert info.linear
    assert info.exact == (kind in EXACT_KINDS)
    assert info.accepts_real == (kind == "digital")
    assert (info.backend, info.outputs_per_mode, info.output_map) == ("numpy", 2, "rows")
    frames_and_pixels = {"digital": (0, 0), "off-axis": (2, 24**2)}
    assert (info.frames_per_vector, info.n_pixels) == frames_and_pixels.get(kind, (8, 11))
    assert info.matrix is not None
    assert info.matrix.storage == "stored"


@pytest.mark.parametrize("kind", ["digital", "ideal", "noisy", "tracked"])
def test_unit_gain(kind: str) -> None:
    """E[field²] = |x|² over N = 10^5 outputs, within 4.9 σ = 4.9 √(2/N): false alarms 1e-6.

    The emulator adds noise to field², but none on average to the slope of field against exact field, which is 1 within
    4.9/√(N · SNR). With Is 50 e- on one side and 25 e- on the other, R² 1500 e-, s 13 e- and q 39.2 e-/DN the SNR is
    4 R² (50 + 25) / (50 + 25 + 2 (R² + s² + q²/12)).
    """
    n_outputs = 100_000
    snr = 4 * 1500 * 75 / (75 + 2 * (1500 + 13**2 + 39.2157**2 / 12))
    vector = np.array([[1, 0, -1, 1, 0]], np.int8)
    with opened(kind, 5, n_outputs, seed=1) as device:
        field = device.project(vector)[0].astype(np.float64)
        matrix = device.effective_matrix()
    assert matrix is not None
    exact = matrix.astype(np.float64) @ vector[0]
    noise_power = 0 if kind in EXACT_KINDS else 1 / snr
    assert abs(np.mean(field**2) / 3 - 1 - noise_power) < 4.9 * (2 / n_outputs) ** 0.5
    slope_bound = 1e-6 if kind in EXACT_KINDS else 4.9 / (n_outputs * snr) ** 0.5
    assert abs(field @ exact / (exact @ exact) - 1) < slope_bound


@every_kind
def test_fields_are_the_product_with_the_effective_matrix(kind: str) -> None:
    vectors = ternary(20)
    with opened(kind, seed=4) as device:
        fields = device.project(vectors)
        matrix = device.effective_matrix()
    assert matrix is not None
    assert fields.dtype == matrix.dtype == np.float32
    assert (fields.shape, matrix.shape) == ((20, 21), (21, 30))
    np.testing.assert_array_equal(matrix, reference.matrix(4, 21, 30) * UNIT)
    if kind in EXACT_KINDS:
        np.testing.assert_array_equal(fields, reference.product(4, vectors, 21).astype(np.float32) * UNIT)
    else:  # each side has the variance (Is + R² + s² + q²/12) / (8 R²) e-, and at most 20 features ON; 6 σ of 420: 1e-6
        worst = 2 * (20 * 25 + 1500 + 13**2 + 39.2157**2 / 12) / (8 * 1500) / (25 / 2)
        assert 0 < np.abs(fields - vectors @ matrix.T).max() < 6 * worst**0.5


@every_kind
@pytest.mark.parametrize(
    "rows", [slice(None), slice(3, 9, 2), slice(20, 21), slice(5, 5), slice(-4, None), slice(None, None, -3)], ids=str
)
def test_rows_of_the_effective_matrix(kind: str, rows: slice) -> None:
    matrix = closed(kind, seed=9).effective_matrix(rows)
    np.testing.assert_array_equal(matrix, (reference.matrix(9, 21, 30) * UNIT)[rows])


@any_kind
@pytest.mark.parametrize("size", [1, 3, 22])
def test_fields_do_not_depend_on_the_split_into_calls(kind: str, size: int) -> None:
    vectors = ternary(23)
    with opened(kind) as one, opened(kind) as many:
        whole = one.project(vectors)
        parts = [many.project(vectors[first : first + size]) for first in range(0, 23, size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
        assert counts(one.usage) == pytest.approx(counts(many.usage))


def test_fields_do_not_depend_on_internal_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = ternary(23)
    with opened("noisy") as device:
        whole = device.project(vectors)
    per_vector = 8 * (30 + 10 * 11)
    for chunk_bytes in (1, 2 * per_vector, 5 * per_vector + 1):
        monkeypatch.setattr(emulated, "CHUNK_BYTES", chunk_bytes)
        with opened("noisy") as device:
            np.testing.assert_array_equal(device.project(vectors), whole)


@every_kind
def test_memory_budget_does_not_matter(kind: str) -> None:
    vectors = ternary(7)
    with opened(kind) as stored, opened(kind, memory_budget_bytes=0) as procedural:
        assert procedural.info.matrix is not None
        assert procedural.info.matrix.storage == "procedural"
        np.testing.assert_array_equal(stored.project(vectors), procedural.project(vectors))


@any_kind
def test_vectors_of_any_layout(kind: str) -> None:
    vectors = ternary(12)
    with opened(kind) as a, opened(kind) as b, opened(kind) as c:
        expected = a.project(vectors)
        np.testing.assert_array_equal(b.project(np.asfortranarray(vectors)), expected)
        np.testing.assert_array_equal(c.project(np.repeat(vectors, 2, axis=1)[:, ::2]), expected)


@any_kind
def test_an_empty_batch_gives_no_fields(kind: str) -> None:
    with opened(kind) as device:
        before = counts(device.usage)  # a probe was shown when it was opened
        fields = device.project(np.zeros((0, 30), np.int8))
        assert fields.shape == (0, 21)
        assert fields.dtype == np.float32
        assert counts(device.usage) == before


@any_kind
def test_zero_vectors_give_zero_fields(kind: str) -> None:
    with opened(kind) as device:
        vectors = ternary(10)
        fields = device.project(vectors)
        assert not fields[1::5].any()
        assert fields[::5].any(axis=1).all()
        assert not device.project(np.zeros((3, 30), np.int8)).any()


@any_kind
def test_the_vectors_are_left_alone(kind: str) -> None:
    vectors = ternary(6)
    copy = vectors.copy()
    with opened(kind) as device:
        device.project(vectors)
    np.testing.assert_array_equal(vectors, copy)


@any_kind
def test_a_saved_state_resumes_to_the_bit(kind: str) -> None:
    vectors = ternary(12)
    with opened(kind, seed=2) as device:
        device.project(vectors)
        state = json.loads(json.dumps(device.state_dict()))  # plain values only
        expected = [device.project(vectors), device.project(vectors)]
    with opened(kind, seed=2) as resumed:
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        np.testing.assert_array_equal(resumed.project(vectors), expected[0])
        np.testing.assert_array_equal(resumed.project(vectors), expected[1])
    if kind == "noisy":
        assert (expected[0] != expected[1]).any()


def test_a_saved_state_can_be_loaded_before_open() -> None:
    with opened("noisy") as device:
        device.project(ternary(5))
        state, expected = device.state_dict(), device.project(ternary(5))
    resumed = closed("noisy")
    resumed.load_state_dict(state)
    with resumed:
        np.testing.assert_array_equal(resumed.project(ternary(5)), expected)


@any_kind
@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"n_inputs": 31}, {"n_outputs": 22}], ids=lambda other: next(iter(other))
)
def test_the_state_of_another_matrix_is_refused_and_changes_nothing(kind: str, other: dict[str, int]) -> None:
    with opened(kind, **other) as stranger:
        stranger.project(ternary(3, stranger.info.n_inputs))
        foreign = stranger.state_dict()
    with opened(kind) as device:
        device.project(ternary(2))
        before = device.state_dict()
        with pytest.raises(FingerprintMismatch) as error:
            device.load_state_dict(foreign)
        assert device.state_dict() == before
    message = str(error.value)
    assert repr(foreign["fingerprint"]) in message
    assert repr(device.fingerprint) in message
    assert message.endswith("open the device with the matrix seed and size of the saved run")


def test_a_state_without_fingerprint_is_refused() -> None:
    with pytest.raises(FingerprintMismatch, match="belongs to device None"):
        closed("digital").load_state_dict({})


def test_the_state_of_another_kind_of_device_leaves_the_position() -> None:
    with opened("digital") as digital, opened("noisy") as noisy:
        noisy.project(ternary(5))
        before = noisy.state_dict()
        noisy.load_state_dict(digital.state_dict())
        assert noisy.state_dict() == before
        digital.load_state_dict(before)
        assert digital.state_dict()["device"] == "digital"


@every_kind
def test_fingerprint_is_the_hash_of_matrix_and_geometry(kind: str) -> None:
    """Written plainly, and pinned: checkpoints carry it."""
    device = closed(kind, seed=5)
    identity = (
        '{"matrix": {"kind": "procedural", "seed": 5, "version": 1}, '
        '"n_inputs": 30, "n_outputs": 21, "output_map": "rows"}'
    )
    assert device.fingerprint == hashlib.sha256(identity.encode()).hexdigest()[:16] == "e08bec1ec29f3004"


@any_kind
def test_fingerprints_differ_for_other_products(kind: str) -> None:
    others = [closed(kind), closed(kind, seed=1), closed(kind, n_inputs=31), closed(kind, n_outputs=22)]
    assert len({device.fingerprint for device in others}) == 4


def test_fingerprint_does_not_depend_on_noise_exposure_or_stream() -> None:
    changed = closed(
        "noisy", stream=3, camera={"read_noise_e": 1.0}, photometry={"exposure_us": 800.0, "reference_e": 900.0}
    )
    assert changed.fingerprint == closed("noisy").fingerprint == closed("digital").fingerprint


def test_rank_is_the_default_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = ternary(5)
    monkeypatch.setenv("RANK", "3")
    with opened("noisy") as ranked, opened("noisy", stream=3) as third, opened("noisy", stream=0) as zeroth:
        assert ranked.state_dict()["position"] == {"stream": 3, "frame": 0}
        fields = ranked.project(vectors)
        np.testing.assert_array_equal(third.project(vectors), fields)
        assert (zeroth.project(vectors) != fields).any()
    monkeypatch.delenv("RANK")
    with opened("noisy") as first, opened("noisy", stream=0) as zeroth:
        np.testing.assert_array_equal(first.project(vectors), zeroth.project(vectors))


def test_usage_of_the_digital_device() -> None:
    with opened("digital") as device:
        device.project(ternary(4))
        device.project(ternary(3))
        assert counts(device.usage) == {**counts(Usage()), "vectors": 7}
        assert device.usage.wall_seconds > 0


def test_usage_of_the_emulator() -> None:
    """Vectors 0 and 4 light both sides, 1 none, 2 and 3 one; 4 frames a side, each 500 µs at 30 W and 11 pixels."""
    with opened("noisy") as device:
        device.project(ternary(5))
        usage = device.usage
    assert (usage.vectors, usage.frames, usage.frames_skipped) == (5, 4 * 6, 4 * 4)
    assert usage.pixel_readings == 4 * 6 * 11
    assert usage.device_seconds == pytest.approx(24 * 500e-6)
    assert usage.device_joules == pytest.approx(24 * 500e-6 * 30)


def test_usage_in_words() -> None:
    usage = Usage(1200, 9600, 24, 5, 1000, 1.26, 4.84, 145.2)
    assert str(usage) == (
        "1,200 vectors, 9,600 frames, 24 dark frames skipped, 0.50% of pixels saturated, 1.3 s here, "
        "4.8 s and 145 J on the modelled machine"
    )
    assert str(Usage(vectors=3)) == "3 vectors, 0 frames, 0.0 s here"


def test_the_digital_device_takes_real_vectors() -> None:
    """Against float64, relative to |x|: a float32 product of 30 terms is right to 30 · 6e-8."""
    vectors = np.random.default_rng(0).standard_normal((8, 30), np.float32)
    with opened("digital", seed=6) as device:
        fields = device.project(vectors)
        assert fields.dtype == np.float32
        assert device.usage.vectors == 8
    exact = vectors.astype(np.float64) @ reference.matrix(6, 21, 30).T * float(UNIT)
    assert (np.abs(fields - exact) < 30 * 6e-8 * np.linalg.norm(vectors, axis=1, keepdims=True)).all()


def test_ternary_vectors_as_real_numbers_are_the_same_to_the_bit() -> None:
    with opened("digital") as device:
        np.testing.assert_array_equal(device.project(ternary(9).astype(np.float32)), device.project(ternary(9)))
