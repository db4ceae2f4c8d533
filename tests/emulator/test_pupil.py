"""Modes in the pupil plane: how many, which, and that image and modes are each other's inverse."""

import math

import numpy as np
import pytest
from plain_bench import gaussian_fields, image_of_modes

from optical_dfa.emulator.pupil import Pupil, PupilShape, pupil_bins, smallest_shape


@pytest.mark.parametrize("shape", [(8, 12), (9, 16)])
@pytest.mark.parametrize("pupil", ["circular", "square"])
@pytest.mark.parametrize("grain_px", [1.0, 2.0, 3.3])
def test_the_image_is_the_sum_of_plane_waves(shape: tuple[int, int], pupil: PupilShape, grain_px: float) -> None:
    """Against the explicit sum, and back, to rounding."""
    optics = Pupil(shape, grain_px, pupil)
    modes = gaussian_fields((2, optics.n_modes), 7.0, 0)
    expected = image_of_modes(modes, shape, grain_px, pupil == "circular")
    np.testing.assert_allclose(optics.to_image(modes), expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(optics.to_modes(expected), modes, rtol=0, atol=1e-13)
    # Parseval: the mean intensity of an image is that of its modes
    np.testing.assert_allclose((np.abs(expected) ** 2).mean((1, 2)), (np.abs(modes) ** 2).mean(1), rtol=1e-13)


def test_bins_inside_the_rim() -> None:
    """At 8 x 8 and d = 2, k_c = 2 bins: 13 lattice points in the closed circle, 25 in the closed square."""
    circle = {(0, 0), (0, 1), (0, 2), (0, -1), (0, -2), (1, 0), (2, 0), (-1, 0), (-2, 0)}
    circle |= {(1, 1), (1, -1), (-1, 1), (-1, -1)}
    assert pupil_bins((8, 8), 2.0).tolist() == sorted(y % 8 * 8 + x % 8 for y, x in circle)
    assert len(pupil_bins((8, 8), 2.0, "square")) == 25


@pytest.mark.parametrize(("pupil", "area"), [("circular", math.pi / 4), ("square", 1.0)])
def test_kept_fraction_is_the_area_of_the_pupil(pupil: PupilShape, area: float) -> None:
    """π k_c² and (2 k_c)²; the rim of the lattice counts for 1 % of 250 bins' diameter."""
    assert Pupil((1500, 1500), 6.0, pupil).kept_fraction == pytest.approx(area / 36, rel=0.01)


@pytest.mark.parametrize("pupil", ["circular", "square"])
@pytest.mark.parametrize(
    ("grain_px", "n_modes", "multiple"), [(1, 1, 1), (2.5, 100, 1), (4, 1000, 8), (6, 9, 1), (6, 37, 5)]
)
def test_smallest_shape(pupil: PupilShape, grain_px: float, n_modes: int, multiple: int) -> None:
    side, other = smallest_shape(n_modes, grain_px, pupil, multiple)
    assert side == other
    assert side % multiple == 0
    assert len(pupil_bins((side, side), grain_px, pupil)) >= n_modes
    for smaller in range(multiple, side, multiple):
        assert len(pupil_bins((smaller, smaller), grain_px, pupil)) < n_modes


def test_single_precision_stays_single() -> None:
    optics = Pupil((8, 8), 2.0)
    image = optics.to_image(np.ones((1, 13), np.complex64))
    assert image.dtype == np.complex64
    assert optics.to_modes(image).dtype == np.complex64
    assert optics.to_modes(image.real).dtype == np.complex64


@pytest.mark.parametrize(("grain_px", "pupil", "name"), [(0.5, "circular", "grain_px"), (2, "round", "pupil")])
def test_refusals(grain_px: float, pupil: PupilShape, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        pupil_bins((4, 4), grain_px, pupil)
