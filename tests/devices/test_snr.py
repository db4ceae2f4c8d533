"""The measured SNR against a device whose noise is known."""

import math

import numpy as np
import pytest

from optical_dfa.devices import DeviceInfo, ProjectionDevice, Usage, make_device, measured_snr_db
from optical_dfa.devices.base import Fields, Vectors

N_INPUTS, N_OUTPUTS = 40, 500


class NoisyIdentity(ProjectionDevice):
    """A fixed matrix plus Gaussian noise of a stated standard deviation."""

    def __init__(self, noise: float, *, knows_its_matrix: bool = True) -> None:
        super().__init__()
        self.matrix_identity = {"kind": "test"}
        self.info = DeviceInfo(
            name="noisy", n_inputs=N_INPUTS, n_outputs=N_OUTPUTS, linear=True, exact=False, accepts_real=False,
            backend="test", frames_per_vector=0, n_pixels=0, outputs_per_mode=1, output_map="rows", matrix=None,
        )  # fmt: skip
        self.generator = np.random.default_rng(5)
        self.matrix = self.generator.standard_normal((N_OUTPUTS, N_INPUTS), np.float32)
        self.noise, self.knows_its_matrix = noise, knows_its_matrix

    def effective_matrix(self, rows: slice = slice(None)) -> Fields | None:
        return self.matrix[rows] if self.knows_its_matrix else None

    def _project(self, vectors: Vectors) -> tuple[Fields, Usage]:
        fields = vectors.astype(np.float32) @ self.matrix.T
        fields += np.float32(self.noise) * self.generator.standard_normal(fields.shape, np.float32)
        return fields, Usage()


def ternary() -> Vectors:
    return np.random.default_rng(1).integers(-1, 2, (200, N_INPUTS), np.int8)


@pytest.mark.parametrize("noise", [0.1, 1.0, 20.0])
def test_measured_snr_is_signal_power_over_noise_power(noise: float) -> None:
    """The noise power of 10^5 fields is known to √(2/N) = 0.45 %, 0.02 dB: 0.2 dB are 10 σ."""
    vectors = ternary()
    with NoisyIdentity(noise) as device:
        found = measured_snr_db(device, vectors)
        exact = vectors.astype(np.float64) @ device.matrix.T.astype(np.float64)
    assert found == pytest.approx(10 * math.log10(np.mean(exact**2) / noise**2), abs=0.2)


@pytest.mark.parametrize("name", ["digital", "ideal"])
def test_an_exact_device_has_no_noise(name: str) -> None:
    options = {"preset": "ideal"} if name == "ideal" else {}
    kind = "emulator" if name == "ideal" else name
    with make_device(kind, n_inputs=N_INPUTS, n_outputs=30, **options) as device:
        assert measured_snr_db(device, ternary()) == math.inf


def test_an_unknown_matrix_has_no_measurable_snr() -> None:
    with (
        NoisyIdentity(1.0, knows_its_matrix=False) as device,
        pytest.raises(ValueError, match="device 'noisy' does not know its matrix: measure it first"),
    ):
        measured_snr_db(device, ternary())


@pytest.mark.parametrize("count", [0, 3])
def test_the_snr_of_no_signal_is_undefined(count: int) -> None:
    with NoisyIdentity(1.0) as device, pytest.raises(ValueError, match="give vectors that are not all zero"):
        measured_snr_db(device, np.zeros((count, N_INPUTS), np.int8))
