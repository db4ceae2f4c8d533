"""Scripts for the vendor's software on the emulated bench, run by that software in a process of its own.

What it is for: docs/how-to/use-your-own-bench.md.
"""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import vendor

from optical_dfa.devices import InvalidConfig
from optical_dfa.devices.opu_device import OpuDevice
from optical_dfa.emulator import reference
from optical_dfa.emulator.matrix import VARIANCE

SCRIPT = """
import json, warnings
warnings.simplefilter("ignore")
import numpy as np
from lightonml.opu import OPU
from optical_dfa.devices.opu_device import OpuDevice

x = np.zeros((6, 100), np.uint8)
for row in range(6):
    x[row, row : row + 5] = 1
opu = OPU(n_components=4000, opu_device=OpuDevice(seed=3), max_n_features=100)
opu.fit1d(x)
found = {"dtype": str(np.asarray(opu.transform(x)).dtype), "batch": np.asarray(opu.transform(x)).tolist()}
opu.fit1d(n_features=100, online=True)
found["online"] = np.asarray(opu.transform(x[0])).tolist()
opu.fit2d(x.reshape(6, 10, 10))
found["2d"] = np.asarray(opu.transform(x.reshape(6, 10, 10))).tolist()
opu.fit1d(np.packbits(x[:, :96], axis=1), packed=True)
found["packed"] = np.asarray(opu.transform(np.packbits(x[:, :96], axis=1))).tolist()
opu.fit1d(x)
linear = np.asarray(opu.linear_transform(x))
found["linear"] = linear.tolist()
simulated = OPU(n_components=4000, simulated=True, max_n_features=100)
simulated.fit1d(x)
found["simulated_variance"] = np.asarray(simulated.linear_transform(x)).var(axis=1).tolist()
opu.n_components = 5000
opu.fit1d(x)
found["more"] = np.asarray(opu.linear_transform(x)).shape
try:
    opu.linear_transform(-x.astype(np.int8))
except ValueError as error:
    found["refused"] = str(error)
with opu:
    pass
opu.close()
try:
    opu.transform(x)
except AssertionError as error:
    found["closed"] = str(error)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=vendor.environment(), capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout)
    return result


def exact() -> np.ndarray:
    """Complex field of each vector at each pixel over the field of one input, root mean square: (6, 4000)."""
    rows = reference.matrix(3, 8000, 100).astype(np.float64) / np.sqrt(VARIANCE)
    vectors = np.zeros((6, 100))
    for row in range(6):
        vectors[row, row : row + 5] = 1
    field = vectors @ rows.T
    return np.asarray((field[:, 0::2] + 1j * field[:, 1::2]) / np.sqrt(2))


@pytest.mark.parametrize("call", ["batch", "online", "2d", "packed"])
def test_transform_gives_camera_images_of_the_field(found: dict[str, object], call: str) -> None:
    """Electrons K·250·|A|² of five features. The other 95 leak, contrast 1000: 95/1000 of the light of one, so the
    image correlates with |A|² by 5/5.095 = 0.981. Noise √(Is + 13²) e- and rounding, 0.8 DN beside a standard deviation
    of 23.5 DN, take 0.001 of it; the correlation of 4000 pixels is known to (1 - 0.98²)/√4000 = 0.0006, 5 σ are 0.003.
    """
    images = np.atleast_2d(np.array(found[call]))
    intensity = np.abs(exact()[: len(images)]) ** 2
    assert found["dtype"] == "uint8"
    assert images.shape == (len(intensity), 4000)
    assert np.corrcoef(images.ravel(), intensity.ravel())[0, 1] == pytest.approx(0.980, abs=0.004)
    assert np.polyfit(intensity.ravel(), images.ravel(), 1)[0] == pytest.approx(0.0188 * 250, rel=0.1)


def test_linear_transform_is_linear_with_the_variance_of_the_vendors_simulator(found: dict[str, object]) -> None:
    """The simulator's variance is known to √(2/4000) = 2 % for six vectors, so is ours: 6 σ of the means, 8 %."""
    linear = np.array(found["linear"])
    assert np.corrcoef(linear.ravel(), exact().real.ravel())[0, 1] > 0.98
    simulated = np.array(found["simulated_variance"])
    assert linear.var(axis=1).mean() == pytest.approx(simulated.mean(), rel=0.08)


def test_what_is_refused_and_what_may_change(found: dict[str, object]) -> None:
    assert found["more"] == [6, 5000]
    assert str(found["refused"]).startswith("the OPU shows 0 and 1 only; got values from 0 to 255 (lightonml turns -1")
    assert str(found["closed"]).startswith("OPU device isn't active")


def test_without_the_vendors_software_it_is_a_camera() -> None:
    device = OpuDevice(preset="phase-stepping", seed=1)
    assert device.random_matrix is None
    with pytest.raises(RuntimeError, match=r"call build_random_matrix\(n_features, n_components\) first"):
        device.transform1(np.zeros((1, 4), np.uint8))
    device.build_random_matrix(4, 30)
    assert device.random_matrix is not None
    assert device.random_matrix.shape == (4, 30)
    assert device.nb_features == 4
    vectors = np.eye(4, dtype=np.uint8)
    with device:
        assert device.active
        images = device.transform1(vectors)
        copy = pickle.loads(pickle.dumps(device))
        np.testing.assert_array_equal(copy.transform_single(vectors[0]), device.transform_single(vectors[0]))
    assert not device.active
    assert images.shape == (4, 30)
    larger = OpuDevice(preset="phase-stepping", seed=1)
    larger.build_random_matrix(4, 60)
    np.testing.assert_array_equal(larger.transform1(vectors)[:, :30], images)
    with pytest.raises(ValueError, match=r"X must be of shape \(batch, 4\) at most; got 'uint8 \(1, 5\)'"):
        device.transform1(np.zeros((1, 5), np.uint8))
    with pytest.raises(ValueError, match="seed must be None: the matrix is that of OpuDevice"):
        device.build_random_matrix(4, 30, seed=2)


def test_a_camera_of_another_depth_is_refused() -> None:
    with pytest.raises(ValueError, match=r"camera.adc_bits must be 8, as the OPU's; got 10"):
        OpuDevice(preset="lab-bench")
    with pytest.raises(InvalidConfig, match="Did you mean 'camera'"):
        OpuDevice(camra={"adc_bits": 8})
