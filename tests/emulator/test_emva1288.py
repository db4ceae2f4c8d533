"""The EMVA 1288 working group's evaluation program, on images of the emulated camera, finds what was put in."""

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from optical_dfa.emulator import Camera
from optical_dfa.emulator.hashing import derive_key

SIDE = 512
EXPOSURES_US = np.linspace(200, 5200, 26)
PHOTONS_PER_US = 4.0
CAMERA = Camera(
    shot_noise=True,
    read_noise_e=13.0,
    full_well_e=10_000.0,
    gain_dn_per_e=0.095,
    adc_bits=10,
    quantum_efficiency=0.6,
    dark_current_e_per_s=5000.0,
    prnu=0.01,
    dsnu_e=8.0,
    black_level_dn=20.0,
)
CAMERAS = {
    8: dataclasses.replace(CAMERA, adc_bits=8, gain_dn_per_e=0.0235, black_level_dn=8.0),
    10: CAMERA,
    12: dataclasses.replace(CAMERA, adc_bits=12, gain_dn_per_e=0.38, black_level_dn=80.0),
}


class Lab:
    """Takes images of even light, as the standard asks: never the same noise twice."""

    def __init__(self, camera: Camera) -> None:
        self._camera, self._taken = camera, 0

    def images(self, count: int, photons: float, exposure_us: float) -> npt.NDArray[np.int64]:
        numbers = self._taken + np.arange(count, dtype=np.uint64)[:, None]
        self._taken += count
        maps = self._camera.maps(11, SIDE * SIDE, exposure_us)
        light = np.full((count, SIDE * SIDE), photons, np.float32)
        images = self._camera.expose(light, derive_key(7, numbers), maps=maps)
        return images.reshape(count, SIDE, SIDE).astype(np.int64)


def evaluated(camera: Camera, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Results of the program. 26 exposures beyond saturation, two images each and two in the dark; 16 for the maps."""
    # the program is older than NumPy 2, which has lost one name that it uses
    monkeypatch.setattr(np, "asfarray", lambda values: np.asarray(values, float), raising=False)
    from emva1288.process.data import Data1288
    from emva1288.process.results import Results1288
    from emva1288.process.routines import get_int_imgs

    lab = Lab(camera)

    def pair(photons: float, exposure_us: float) -> dict[str, float]:
        sums = get_int_imgs(lab.images(2, photons, exposure_us))
        return {"sum": float(sums["sum"].sum()), "pvar": float(sums["pvar"].sum()), "dmean": float(sums["dmean"])}

    temporal = {
        1e3 * float(time): {photons: pair(photons, time) for photons in (0.0, PHOTONS_PER_US * time)}
        for time in EXPOSURES_US  # the program counts in nanoseconds
    }
    time = 2000.0  # half of the full well
    spatial = {
        1e3 * time: {photons: get_int_imgs(lab.images(16, photons, time)) for photons in (0.0, PHOTONS_PER_US * time)}
    }
    data = Data1288({"width": SIDE, "height": SIDE, "temporal": temporal, "spatial": spatial})
    return Results1288(data.data)


@pytest.mark.parametrize("bits", [10, 12])
def test_the_reference_implementation_finds_what_was_put_in(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise of the results: 0.1 % of K, 0.2 % of σ_d, √(2/P)/2 ≈ 0.2 % of PRNU and DSNU: a tenth of what is allowed."""
    camera = CAMERAS[bits]
    found = evaluated(camera, monkeypatch)
    assert pytest.approx(camera.gain_dn_per_e, rel=0.01) == found.K
    assert pytest.approx(camera.quantum_efficiency, rel=0.02) == found.QE / 100
    assert found.sigma_d == pytest.approx(camera.read_noise_e, rel=0.02)
    assert pytest.approx(camera.prnu, rel=0.02) == found.PRNU1288 / 100
    assert pytest.approx(camera.dsnu_e, rel=0.03) == found.DSNU1288
    assert found.u_I_mean == pytest.approx(camera.dark_current_e_per_s, rel=0.02)
    assert found.u_I_var == pytest.approx(camera.dark_current_e_per_s, rel=0.04)
    # the next step beyond saturation: of the well, or of the converter less its black level
    assert found.u_e_sat == pytest.approx(camera.full_well_e, rel=0.06)


def test_at_8_bits_it_finds_the_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read noise is hidden: the program takes no variance below 0.24 DN² for true."""
    camera = CAMERAS[8]
    found = evaluated(camera, monkeypatch)
    assert pytest.approx(camera.gain_dn_per_e, rel=0.03) == found.K
    assert pytest.approx(camera.quantum_efficiency, rel=0.03) == found.QE / 100
    assert math.isfinite(found.sigma_d)
