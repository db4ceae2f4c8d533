"""Devices on benches where light is uneven: they multiply by their effective matrix, at unit gain on average."""

import numpy as np
import pytest

from optical_dfa.devices import open_device


@pytest.mark.parametrize(
    "dmd", [{"contrast": 4.0}, {"padding": True}, {"contrast": 9.0, "padding": True, "envelope_waist": 0.9}]
)
def test_the_background_cancels_in_a_device(dmd: dict[str, float]) -> None:
    """Vectors of one side too: their dark side is displayed, since it is not dark. Zero vectors are not."""
    vectors = np.zeros((4, 30), np.int8)
    vectors[0, 3], vectors[1, 5], vectors[2, :6] = 1, -1, [1, -1, 1, 1, -1, 0]
    sizes = {"n_inputs": 30, "n_outputs": 400}
    with open_device("emulator", preset="ideal", dmd=dmd, apparatus={"dmd_mirrors": 1000}, **sizes) as device:
        found, exact = device.project(vectors), vectors @ device.effective_matrix().T  # type: ignore[union-attr]
        assert (device.usage.frames, device.usage.frames_skipped) == (24, 8)
        assert not device.info.exact
    assert np.abs(found - exact).max() < 2e-5
    assert np.abs(found[3]).max() == 0
    assert np.mean(exact[0] ** 2) == pytest.approx(1, abs=0.6)


def test_a_device_with_several_modes_a_pixel_multiplies_by_their_mean() -> None:
    """Unit gain, by its own effective matrix, in a beam too; the fingerprint is another."""
    vectors = np.random.default_rng(0).integers(-1, 2, (6, 40), np.int8)
    sizes = {"n_inputs": 40, "n_outputs": 3000, "preset": "ideal"}
    fingerprints = set()
    for laser in ({}, {"signal_waist": 0.9, "reference_waist": 2.0}):
        with open_device("emulator", grain={"size_px": 0.5}, laser=laser, **sizes) as device:
            matrix = device.effective_matrix()
            assert matrix is not None
            found = device.project(vectors)
            np.testing.assert_allclose(found, vectors @ matrix.T, atol=2e-4)
            assert np.mean(matrix**2) == pytest.approx(1, abs=0.02)
            assert device.info.output_map == "weighted"
            np.testing.assert_array_equal(device.effective_matrix(slice(7, 2, -2)), matrix[7:2:-2])
            assert device.effective_matrix(slice(0, 0)).shape == (0, 40)  # type: ignore[union-attr]
            fingerprints.add(device.fingerprint)
    with open_device("emulator", **sizes) as plain:
        fingerprints.add(plain.fingerprint)
    assert len(fingerprints) == 3


def test_calibrated_maps_even_the_beams_out() -> None:
    """What the readout has maps of is divided out: rows of T again, to the noise of 400 flat frames, 1/(2 √400)."""
    beams = {"signal_waist": 1.5, "reference_waist": 2.0}
    sizes = {"n_inputs": 400, "n_outputs": 1000, "preset": "ideal", "laser": beams}
    vectors = np.random.default_rng(0).integers(-1, 2, (10, 400), np.int8)
    taken = {"dark_frames": 1, "reference_frames": 1, "flat_frames": 400}
    with open_device("emulator", readout={"calibration": taken}, **sizes) as device:
        exact = vectors @ device.effective_matrix().T  # type: ignore[union-attr]
        assert device.info.output_map == "rows"
        assert np.std(device.project(vectors) - exact) < 2 * 0.025 * np.std(exact)
    with open_device("emulator", **sizes) as device:
        assert device.info.output_map == "weighted"
        assert np.std(device.project(vectors) - exact) > 0.1 * np.std(exact)
