"""A stand-in for the vendor's private driver, `lightonopu`: it writes down every call, and answers with speckle.

`install` puts it where `lightonml` looks for it; then `lightonml` runs its real code path, on our emulated bench. The
linear mode is of our own making, with the vendor's five frames a pattern: for a fixed pattern r and a = x without r,
b = x within r, Re(exp(-i arg A r) A x) = (I(a + r) - I(a) - I(r - b) + I(b)) / (2 √I(r)).
"""

import contextlib
import enum
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator import Apparatus, BenchParameters, Camera, EmulatedBench, FrameStamp, Photometry

Bits = npt.NDArray[np.uint8]

calls: list[tuple[Any, ...]] = []
"""Name and arguments of every call, in order."""

SEED = 7
mirrors = (912, 1140)
failures: dict[str, list[BaseException]] = {}
"""What the next calls of that name raise, one each."""

photometry = Photometry(signal_e_per_feature=1500.0, reference_e=1.0, exposure_us=400.0)
camera = Camera(shot_noise=True, read_noise_e=10.0, full_well_e=1e5, gain_dn_per_e=255 / 1e5, adc_bits=8)
"""Sixteen lit features give a quarter of the full well: one pixel in e^4 saturates."""


class OpuAlreadyUsedException(Exception):  # the vendor's name
    pass


class AcqState(enum.Enum):
    stopped = 1
    batch = 2


class RoiStrategy(enum.Enum):
    mid_width = 1


def note(name: str, *arguments: Any) -> None:
    calls.append((name, *arguments))
    if failures.get(name):
        raise failures[name].pop()


class OpuDevice:
    output_shape_max = (2040, 1088)
    output_roi_strategy = RoiStrategy.mid_width
    output_roi_increment = 1
    output_dtype = np.uint8
    gain_dB = 0.0  # noqa: N815  # the vendor's name

    def __init__(self, *arguments: Any) -> None:
        note("OpuDevice", *arguments)
        self.input_shape = mirrors
        self._frametime_us, self._exposure_us = arguments[1], arguments[2]
        self._roi: Any = None
        self.active = False
        self.acq_state = AcqState.stopped
        self.bench: EmulatedBench | None = None
        self._shown = 0

    @property
    def output_roi(self) -> Any:
        return self._roi

    @output_roi.setter
    def output_roi(self, roi: Any) -> None:
        note("output_roi", tuple(tuple(int(n) for n in pair) for pair in roi))
        self._roi = roi

    @property
    def output_shape(self) -> Any:
        return self._roi[1]

    @property
    def output_readout_us(self) -> float:
        return 2.6875 * float(self._roi[1][1]) + 32.25  # FACTS §3

    @property
    def exposure_us(self) -> int:
        return int(self._exposure_us)

    @exposure_us.setter
    def exposure_us(self, value: int) -> None:
        note("exposure_us", value)
        self._exposure_us = value

    @property
    def frametime_us(self) -> int:
        return int(self._frametime_us)

    @frametime_us.setter
    def frametime_us(self, value: int) -> None:
        note("frametime_us", value)
        self._frametime_us = value

    def open(self) -> None:
        note("open")
        self.active = True

    def close(self) -> None:
        note("close")
        self.active = False

    def reserve(self, n_images: int) -> None:
        note("reserve", n_images)

    @contextlib.contextmanager
    def acquiring(self, n_images: int = 0, online: bool = False) -> Iterator[None]:
        note("acquiring", n_images)
        self.acq_state = AcqState.batch
        try:
            yield
        finally:
            self.acq_state = AcqState.stopped

    def transform2(self, packed: Bits, images: Bits, index: int) -> None:
        note("transform2", packed.dtype.name, packed.shape, images.dtype.name, images.shape, index)
        elements = Formatter.last.features_of(packed)
        images[:] = (
            self.light(images.shape[1], elements.shape[1])
            .expose(elements[: len(images)], reference=False, at=FrameStamp(0, self._shown))
            .reshape(len(images), -1)[:, : images.shape[1]]
        )
        self._shown += len(images)

    def light(self, n_pixels: int, n_features: int) -> EmulatedBench:
        if self.bench is None:
            apparatus = Apparatus(912 * 1140, 2040 * 1088, 500.0, 30.0)
            self.bench = EmulatedBench(n_features, n_pixels, SEED, BenchParameters(photometry, camera, apparatus))
        return self.bench


class Formatter:
    """Features on neighbouring mirrors, as many each as there is room for; mirrors left over are ON."""

    last: "Formatter"

    def __init__(self, shape: Any) -> None:
        note("Formatter", tuple(int(n) for n in shape))
        Formatter.last = self
        self.lined_factor = 0

    def define_lined_mapping(self, n_features: int, size: Any, offset: Any) -> None:
        note("define_lined_mapping", int(np.prod(n_features)), tuple(map(int, size)), tuple(map(int, offset)))
        self._n_features = int(np.prod(n_features))
        self.lined_factor = int(np.prod(size)) // self._n_features

    def apply_format(self, packed: Bits, target: Bits, n_features: int, reversed_bits: bool) -> None:
        order: Any = "little" if reversed_bits else "big"
        shown = np.ones(int(np.prod(mirrors)), np.uint8)
        for features, row in zip(np.unpackbits(packed, axis=1)[:, :n_features], target, strict=True):
            shown[: n_features * self.lined_factor] = features.repeat(self.lined_factor)
            row[:] = np.packbits(shown, bitorder=order)

    def features_of(self, packed: Bits) -> Bits:
        first = np.arange(self._n_features) * self.lined_factor  # the first mirror of each
        return (packed[:, first // 8] >> (first % 8).astype(np.uint8) & 1).astype(np.uint8)


def anchor(n_features: int) -> Bits:
    """The fixed pattern r: every other feature."""
    return (np.arange(n_features) % 2).astype(np.uint8)


def encode_batch(patterns: Bits) -> Bits:
    note("encode_batch", patterns.shape)
    r = anchor(patterns.shape[1])
    within, without = patterns & r, patterns & (1 - r)
    frames = [without + r, without, r - within, within, np.broadcast_to(r, patterns.shape)]
    return np.stack(frames, axis=1).reshape(-1, patterns.shape[1])


def decode_batch(images: Bits) -> npt.NDArray[np.float32]:
    note("decode_batch", images.shape)
    both, without, rest, within, alone = (images[step::5].astype(np.float32) for step in range(5))
    fields: npt.NDArray[np.float32] = (both - without - rest + within) / (2 * np.sqrt(np.maximum(alone, 1)))
    return fields


def install() -> None:
    """Make `import lightonopu` find this, version 1.4.1."""
    import pkg_resources  # type: ignore[import-not-found]

    def module(name: str, **content: Any) -> ModuleType:
        made = ModuleType(name)
        vars(made).update(content)
        sys.modules[name] = made
        return made

    linear = module(
        "lightonopu.linear_reconstruction",
        init=lambda n: note("linear_reconstruction.init", int(n)),
        encode_batch=encode_batch,
        decode_batch=decode_batch,
    )
    formatting = module("lightonopu.formatting_v2", Formatter=Formatter)
    device = module("lightonopu.internal.device", OpuDevice=OpuDevice)
    internal = module("lightonopu.internal", device=device, __path__=[])
    module("lightonopu", linear_reconstruction=linear, formatting_v2=formatting, internal=internal, __path__=[])
    pkg_resources.working_set.add(
        pkg_resources.Distribution(project_name="lightonopu", version="1.4.1", location="stub")
    )
