"""A stand-in for the vendor's device, so that scripts written for `lightonml` run on the noisy emulator.

    from lightonml.opu import OPU
    from optical_dfa.devices.opu_device import OpuDevice

    opu = OPU(n_components=10_000, opu_device=OpuDevice(preset="lighton-aurora"), max_n_features=1_000)

`lightonml` 1.4.3 takes a device only if its class is named `OpuDevice` or `SimulatedOpuDevice`, and goes without a
configuration file and the private driver only if it is an instance of the latter. What it calls on it is here, method
by method; it is not a `ProjectionDevice`.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from optical_dfa.devices.presets import Preset, load_preset
from optical_dfa.devices.readouts.phase_stepping import PhaseStepping
from optical_dfa.emulator import EmulatedBench, FrameStamp
from optical_dfa.emulator.checks import require
from optical_dfa.emulator.parameters import ROI_COLUMNS

try:
    from lightonml.internal.simulated_device import SimulatedOpuDevice as _Simulated
except ImportError:  # without the vendor's package it is a camera to play with
    _Simulated = object

_FRAMES_AT_ONCE = 64

Numbers = npt.NDArray[Any]


class TransmissionShape:
    """Shape of a transmission matrix that is not stored, as `lightonml` asks for it."""

    def __init__(self, n_features: int, n_components: int) -> None:
        self.shape = (n_features, n_components)


class OpuDevice(_Simulated):  # type: ignore[misc]  # no types
    """The emulated bench behind the interface of the vendor's device.

    `transform` gives camera images, uint8 by the converter of the preset, with its noise; `linear_transform` the first
    quadrature by phase stepping, float32, of variance ones / n_features before `rescale`, as the vendor's simulator.
    The matrix is that of the seed, whatever the sizes: more components extend it. Vectors that are not binary are
    refused, as by the hardware: the vendor's simulator takes -1 for 255.

    Args:
        preset: name of a bench preset, or a `Preset`, with a converter.
        seed: of matrix and noise, 0 … 2^64-1.
        frametime_us, exposure_us: as of the vendor's device; the exposure changes the light.
        sections: values of the preset to change, for instance `camera={"read_noise_e": 20}`.

    Raises:
        ValueError: no converter.
        InvalidConfig: unknown preset or values.
    """

    def __init__(
        self,
        *,
        preset: str | Preset = "lighton-aurora",
        seed: int = 0,
        frametime_us: int = 500,
        exposure_us: int = 400,
        **sections: Mapping[str, Any],
    ) -> None:
        self._preset = load_preset(preset, sections)
        require(
            self._preset.bench.camera.adc_bits == 8,
            "camera.adc_bits",
            self._preset.bench.camera.adc_bits,
            "8, as the OPU's",
        )
        procedural = self._preset.measured is None
        require(procedural, "preset", self._preset.name, "no digital twin: the OPU draws a matrix of its own")
        self._seed, self._next_frame = seed, 0
        self.active = False
        self.frametime_us, self.exposure_us = int(frametime_us), exposure_us
        self.output_roi = (0, 0), (ROI_COLUMNS, 1088)
        self._linear = False
        """Set by `lightonml` before each transform."""
        self._bench: EmulatedBench | None = None
        self._sizes: tuple[int, int] | None = None

    def build_random_matrix(self, n_features: int, n_components: int, seed: object = None) -> None:
        """Set up for vectors and outputs of these lengths. `seed` must be None or 0: the device has its own."""
        require(seed in (None, 0), "seed", seed, "None: the matrix is that of OpuDevice(seed=…)")
        self._bench = EmulatedBench(int(n_features), int(n_components), self._seed, self._preset.bench)
        self._sizes = int(n_features), int(n_components)

    @property
    def random_matrix(self) -> TransmissionShape | None:
        """Its shape (n_features, n_components): T is not stored. None before `build_random_matrix`."""
        return None if self._sizes is None else TransmissionShape(*self._sizes)

    def open(self) -> None:
        """Take hold of it."""
        self.active = True

    def close(self) -> None:
        """Let go of it."""
        self.active = False

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def reserve(self, _n_images: int) -> None:
        """Nothing to reserve."""

    @contextlib.contextmanager
    def acquiring(self, *_: object, **__: object) -> Iterator[None]:
        """Nothing to start or to stop."""
        yield

    def transform_single(self, X: Numbers) -> Numbers:  # noqa: N803  # the vendor's names
        """Outputs (n_components,) of one vector, (n_features,) or (1, n_features)."""
        return np.asarray(self.transform1(np.atleast_2d(X))[0])

    def transform1(self, X: Numbers) -> Numbers:  # noqa: N803
        """Outputs (batch, n_components) of vectors (batch, n_features), 0 or 1; shorter ones are filled up with 0."""
        if self._bench is None or self._sizes is None:
            raise RuntimeError("the device has no sizes yet: call build_random_matrix(n_features, n_components) first")
        n_features, n_components = self._sizes
        given = f"{X.dtype} {X.shape}"
        require(X.ndim == 2 and X.shape[1] <= n_features, "X", given, f"of shape (batch, {n_features}) at most")
        if not ((X == 0) | (X == 1)).all():
            raise ValueError(
                f"the OPU shows 0 and 1 only; got values from {X.min()} to {X.max()} (lightonml turns -1 into 255): "
                "show the +1 and the -1 of ternary vectors one after the other, and subtract"
            )
        patterns = np.zeros((len(X), n_features), np.uint8)
        patterns[:, : X.shape[1]] = X
        outputs: Numbers = np.empty((len(X), n_components), self.output_dtype)
        exposure_us = float(self.exposure_us)
        self._bench.configure(exposure_us=exposure_us, reference_e=self._preset.bench.photometry.reference_e)
        for first in range(0, len(X), _FRAMES_AT_ONCE):
            part = slice(first, first + _FRAMES_AT_ONCE)
            outputs[part] = self._read(patterns[part])[:, :n_components]
        return outputs

    def transform2(self, X: Numbers, Y: Numbers, _batch_index: object = None) -> None:  # noqa: N803
        """`transform1` into `Y`."""
        Y[:] = self.transform1(X)

    def _read(self, patterns: npt.NDArray[np.uint8]) -> Numbers:
        assert self._bench is not None
        at = FrameStamp(0, self._next_frame)
        if not self._linear:
            self._next_frame += len(patterns)
            return self._bench.expose(patterns, reference=False, at=at).reshape(len(patterns), -1)
        light = self._preset.bench.photometry
        signal_e = light.signal_e_per_feature * float(self.exposure_us) / light.exposure_us
        reading = PhaseStepping(self._bench, light.reference_e).read(patterns, at)
        self._next_frame += reading.frames
        scale = np.float32(
            1 / np.sqrt(signal_e * patterns.shape[1])
        )  # the simulator's entries have variance 1/n_features
        return np.asarray(reading.amplitude[:, 0::2] * (scale * np.float32(np.sqrt(2))))

    @property
    def output_dtype(self) -> type:
        """uint8, as of the camera; float32 for `linear_transform`."""
        return np.float32 if self._linear else np.uint8

    @property
    def input_shape(self) -> tuple[int, int]:
        """Mirrors of the DMD."""
        return 1140, 912

    @property
    def nb_features(self) -> int | None:
        """Length of the vectors; None before `build_random_matrix`."""
        return None if self._sizes is None else self._sizes[0]

    @property
    def input_size(self) -> int:
        """Bytes of a frame."""
        return (self.nb_features or 0) // 8

    @property
    def acq_state(self) -> None:
        """Of no meaning here."""

    @property
    def output_roi_strategy(self) -> None:
        """Of no meaning here."""

    @property
    def output_roi_increment(self) -> int:
        """Pixels."""
        return 1

    @property
    def output_shape_max(self) -> tuple[int, int]:
        """Pixels of the camera, columns and rows."""
        return ROI_COLUMNS, 1088

    @property
    def output_shape(self) -> tuple[int, int]:
        """Pixels of the region that is read."""
        return self.output_roi[1]

    @property
    def output_readout_us(self) -> int:
        """Time to read an image, microseconds."""
        return int(self.exposure_us)

    @property
    def gain_dB(self) -> float:  # noqa: N802
        """Of the camera's amplifier."""
        return 0.0

    def __getstate__(self) -> dict[str, Any]:
        """All but the bench, which is made again."""
        return {**self.__dict__, "_bench": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._sizes is not None:
            self.build_random_matrix(*self._sizes)
