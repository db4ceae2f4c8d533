"""Contrast, autocorrelation and grain of the speckle in images without reference, measured and in theory.

Goodman, Speckle Phenomena in Optics: the contrast of M modes a pixel is 1/√M; the autocorrelation of the intensity is
|μ|², the squared Fourier transform of the pupil.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from optical_dfa.devices import Preset
from optical_dfa.devices.readouts import noise
from optical_dfa.emulator import Pupil
from optical_dfa.view.theory import Conditions, Floats, Power


def lags_shown(grain_px: float, columns: int) -> Floats:
    """Lags that show the grain, whole pixels from 0 on."""
    return np.arange(min(max(6, math.ceil(4 * grain_px)), columns // 2) + 1, dtype=np.float64)


def contrast_measured(light_e: Floats) -> float:
    """Standard deviation over mean of images (patterns, rows, columns), each by itself."""
    return float(np.mean(light_e.std(axis=(1, 2)) / light_e.mean(axis=(1, 2))))


@dataclass(frozen=True)
class Speckle:
    """Speckle of one pattern on one bench, in theory."""

    at: Conditions
    preset: Preset
    pupil: Pupil | None
    power: Power
    graininess: float
    """Of the pattern, see `conditions.graininess`."""

    @cached_property
    def contrast(self) -> float:
        """1/√M for Gaussian fields, and what noise and fixed pattern add."""
        return math.sqrt(self._square(self._speckle))

    @cached_property
    def share(self) -> float:
        """Part of the variance of an image that is the medium's speckle, the rest being noise, pixels and beam."""
        return 1 / (1 + (self._square(0.0) - self._beam_square) / self._speckle)

    @property
    def _speckle(self) -> float:
        """Squared contrast of the speckle alone, evenly lit."""
        return (1 + self.graininess) / self.at.modes_per_pixel

    @property
    def _beam_square(self) -> float:
        return float(np.square(self.at.beams[:, 0]).mean()) - 1

    def _square(self, speckle: float) -> float:
        """Squared contrast of light whose own squared contrast, evenly lit, is `speckle`."""
        at, camera, light_e = self.at, self.preset.bench.camera, self.at.light_e(self.power)
        seeing = 1 - camera.dead_pixels
        square = (1 + speckle) * (1 + self._beam_square) * seeing * (1 + camera.prnu**2)
        hot_e = (camera.hot_e_per_s - camera.dark_current_e_per_s) * self.preset.bench.photometry.exposure_us * 1e-6
        shot_e = (seeing * light_e + at.dark_e) * at.shot_noise
        other = noise.image_variance_e(shot_e, at.read_noise_e, at.quantum_e) + camera.dsnu_e**2
        other += camera.hot_pixels * (1 - camera.hot_pixels) * hot_e**2
        return (square - seeing**2 + other / light_e**2) / seeing**2

    def correlation(self, lags_px: Floats) -> Floats:
        """Autocorrelation of an image along its rows, 1 at lag 0; noise has no part in it elsewhere."""
        return np.asarray(np.where(lags_px == 0, 1.0, self.share * self.overlap(lags_px)))

    def overlap(self, lags_px: Floats) -> Floats:
        """|μ|² between pixels; at fractions of a pixel, where pixels are modes, the overlap of two square pixels."""
        if self.pupil is None:
            return np.asarray(np.maximum(0.0, 1 - np.abs(lags_px)))
        columns = np.fft.fftfreq(self.pupil.image_shape[1])[self.pupil.bins % self.pupil.image_shape[1]]
        values, counts = np.unique(columns, return_counts=True)
        wave = np.exp(2j * np.pi * np.asarray(lags_px)[:, None] * values) @ counts / counts.sum()
        return np.asarray(np.square(np.abs(wave)))

    def grain_px(self, light_e: Floats, correlation: Floats) -> float:
        """Grain of images, pixels: from the area that is correlated, or, below a pixel, from the contrast.

        Args:
            light_e: images without their dark level.
            correlation: their autocorrelation, of `autocorrelation`.
        """
        grain = self.preset.bench.grain.size_px
        if self.at.modes_per_pixel > 1:
            noise_alone = self.contrast**2 - 1 / self.at.modes_per_pixel
            return math.sqrt(max(0.0, contrast_measured(light_e) ** 2 - noise_alone))
        reach = [min(math.ceil(1.5 * grain) if self.pupil else 1, (side - 1) // 2) for side in correlation.shape]
        window = np.ix_(*(np.arange(-each, each + 1) for each in reach))
        area = float(correlation[window].sum()) - (1 - self.share)
        expected = self.share
        if self.pupil is not None:
            mask = np.zeros(self.pupil.n_pixels)
            mask[self.pupil.bins] = 1
            wave = np.fft.ifft2(mask.reshape(correlation.shape)) / self.pupil.kept_fraction
            expected *= float(np.square(np.abs(wave))[window].sum())
        return grain * math.sqrt(max(0.0, area / expected))


def autocorrelation(light_e: Floats, beam: Floats | None) -> Floats:
    """Autocorrelation (rows, columns) over the lag, 1 at lag 0, mean over images (patterns, rows, columns).

    Args:
        light_e: the images, without their dark level.
        beam: relative mean intensity, (rows, columns), to divide them by; None: even.
    """
    even = light_e if beam is None else light_e / beam
    even = even - even.mean(axis=(1, 2), keepdims=True)
    found = np.fft.ifft2(np.square(np.abs(np.fft.fft2(even))).mean(axis=0)).real
    return np.asarray(found / found[0, 0])
