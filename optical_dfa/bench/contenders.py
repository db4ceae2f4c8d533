"""What is timed: calls by name, made for one job, their results checked against the plain reference first."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.bench.effects import DRIFT, EFFECTS
from optical_dfa.bench.four_step import four_step_kernels
from optical_dfa.bench.jobs import Job
from optical_dfa.bench.measure import Call
from optical_dfa.bench.peers import vendor_transform
from optical_dfa.emulator import FrameStamp, NumpyProduct, make_product, reference
from optical_dfa.emulator.matrix import VARIANCE
from optical_dfa.emulator.numba_support import why_no_product

SEED = 0
G1_BYTES = 1 << 30
"""Largest stored float32 matrix of G1; wider ones are cut to fewer pixels, and the time multiplied accordingly."""

CHECKED_ROWS = 16
LIT_E = 500.0
"""Mean signal of a pattern, electrons: that of two lit features in the preset, whatever the size of the job."""

SMALLEST_SNR_DB = 25.0
"""Of a readout; theory says 31 dB for `LIT_E` and the preset's reference, camera and converter."""

VectorArray = npt.NDArray[np.int8]


@dataclass
class Contenders:
    """Calls by name; those that cannot be made here, with the reason; and what G1 had to leave out."""

    calls: dict[str, Call]
    lacking: dict[str, str]
    g1_pixels: int
    """Pixels that the call `g1` computes."""
    checked_rows: int
    """Rows of T whose product was compared with the reference."""


def contenders(job: Job, names: set[str]) -> Contenders:
    """The calls of that job with those names.

    Raises:
        ArithmeticError: a result is wrong.
    """
    generator = np.random.default_rng(SEED)
    signs: VectorArray = generator.integers(0, 2, (job.batch, job.n_in), np.int8) * np.int8(2) - np.int8(1)
    signs[:, generator.random(job.n_in) >= job.lit] = 0
    made = Contenders({}, {}, 0, 0)
    _add_g1(made, job, signs)
    if names & {"numpy", "numba"}:
        _add_fields(made, job, signs, names & {"numpy", "numba"})
    if names & {"auto", "vendor"}:
        _add_peer(made, job, (signs > 0).view(np.uint8))
    if names & {"statistical one-sided", "statistical two-sided"}:
        _add_statistical(made, job, signs)
    elif any(name.startswith("effect ") for name in names):
        _add_effects(made, job, signs)
    elif any("-" in name for name in names):
        _add_camera(made, job, signs)
    return made


def check_rows(fields: npt.NDArray[np.int32], vectors: npt.NDArray[Any], seed: int, n_rows: int) -> int:
    """Compare random rows of a product with the reference.

    Args:
        fields: (batch, n_outputs).
        vectors: (batch, n_in).
        seed: of the matrix.
        n_rows: how many rows.

    Returns:
        The number of rows compared.

    Raises:
        ArithmeticError: they differ.
    """
    rows = np.random.default_rng(seed).integers(0, fields.shape[1], n_rows)
    for row in map(int, rows):
        entries = reference.entries(seed, row, np.arange(vectors.shape[1])).astype(np.int64)
        if not np.array_equal(fields[:, row], vectors.astype(np.int64) @ entries):
            raise ArithmeticError(f"row {row} of {fields.shape[1]}: the product differs from the reference")
    return n_rows


def _add_g1(made: Contenders, job: Job, vectors: VectorArray) -> None:
    made.g1_pixels = min(job.n_pixels, max(1, G1_BYTES // (4 * job.n_in)))
    size = job.n_in * made.g1_pixels
    block = np.random.default_rng(SEED).standard_normal(min(size, 1 << 20), np.float32)  # the rest repeats it: faster
    matrix = np.resize(block, size).reshape(job.n_in, made.g1_pixels)
    real = vectors.astype(np.float32)
    made.calls["g1"] = lambda: real @ matrix


def _add_fields(made: Contenders, job: Job, vectors: VectorArray, names: set[str]) -> None:
    fields: npt.NDArray[np.int32] | None = None
    for name in sorted(names):
        if name == "numba" and (reason := why_no_product()):
            made.lacking[name] = reason
            continue
        product = make_product(job.n_in, 2 * job.n_pixels, SEED, backend="numba" if name == "numba" else "numpy")
        if isinstance(product, NumpyProduct) and product.plan.storage != "stored":
            made.lacking[name] = "T does not fit the memory budget"
            continue
        found = product(vectors)
        made.checked_rows += check_rows(found, vectors, SEED, CHECKED_ROWS)
        if fields is not None and not np.array_equal(found, fields):
            raise ArithmeticError("NumPy and Numba differ")
        fields = found
        made.calls[name] = lambda product=product: product(vectors)  # type: ignore[misc]


def _add_peer(made: Contenders, job: Job, patterns: npt.NDArray[np.uint8]) -> None:
    product = make_product(job.n_in, 2 * job.n_pixels, SEED)
    made.checked_rows += check_rows(product(patterns), patterns, SEED, CHECKED_ROWS)
    made.calls["auto"] = lambda: product(patterns)
    made.calls["vendor"] = vendor_transform(patterns, job.n_pixels)


def _add_camera(made: Contenders, job: Job, signs: VectorArray) -> None:
    """Intensity of binary frames, 4-step of binary patterns, and ternary vectors through the device, by backend."""
    from optical_dfa.devices import EmulatedDevice, PhaseStepping, load_preset  # pydantic: not for a peer's process
    from optical_dfa.emulator import EmulatedBench

    preset = load_preset("phase-stepping").bench
    patterns = (signs > 0).view(np.uint8)
    # the power of the preset's two lit features, spread over all that are lit here: nothing saturates
    signal_e = LIT_E / max(1.0, float(patterns.sum(axis=1).mean()))
    parameters = replace(preset, photometry=replace(preset.photometry, signal_e_per_feature=signal_e))
    at = FrameStamp(0, 0)
    images = []
    for backend in ("numpy", "numba"):
        if backend == "numba" and (reason := why_no_product()):
            made.lacking |= {f"{what}-numba": reason for what in ("intensity", "four-step", "ternary")}
            made.lacking["four-step-kernels"] = reason
            continue
        bench = EmulatedBench(
            job.n_in, job.n_pixels, SEED, parameters, backend="numba" if backend == "numba" else "numpy"
        )
        readout = PhaseStepping(bench, parameters.photometry.reference_e, backend)
        device = EmulatedDevice(
            n_inputs=job.n_in,
            n_outputs=2 * job.n_pixels,
            backend="numba" if backend == "numba" else "numpy",
            photometry={"signal_e_per_feature": signal_e},
        ).open()
        fields = bench.product(patterns)
        made.checked_rows += check_rows(fields, patterns, SEED, CHECKED_ROWS)
        amplitude = fields.astype(np.float64) * math.sqrt(signal_e / (2 * VARIANCE))
        _check_snr(readout.read(patterns, at).amplitude, amplitude)
        images.append(bench.expose(patterns, at=at))
        made.calls[f"intensity-{backend}"] = lambda bench=bench: bench.expose(patterns, at=at)  # type: ignore[misc]
        made.calls[f"four-step-{backend}"] = lambda readout=readout: readout.read(patterns, at)  # type: ignore[misc]
        made.calls[f"ternary-{backend}"] = lambda device=device: device.project(signs)  # type: ignore[misc]
        if backend == "numba":
            made.calls["four-step-kernels"] = kernels = four_step_kernels(bench, patterns)
            _check_snr(kernels(), amplitude)
    _check_images(images)


def _add_statistical(made: Contenders, job: Job, signs: VectorArray) -> None:
    """Ternary vectors of one and of two sides by fidelity `statistical`, and the exact products of the same vectors."""
    from optical_dfa.devices import EmulatedDevice  # pydantic: not for a peer's process

    shown = {"one": (signs > 0).view(np.int8), "two": signs}
    for name, vectors in shown.items():
        device = EmulatedDevice(
            n_inputs=job.n_in,
            n_outputs=2 * job.n_pixels,
            fidelity="statistical",
            photometry={"signal_e_per_feature": LIT_E / max(1.0, float((signs > 0).sum(axis=1).mean()))},
        ).open()
        product = make_product(job.n_in, 2 * job.n_pixels, SEED)
        fields = product(vectors)
        made.checked_rows += check_rows(fields, vectors, SEED, CHECKED_ROWS)
        _check_snr(device.project(vectors), fields / math.sqrt(VARIANCE))
        made.calls[f"statistical {name}-sided"] = lambda device=device, x=vectors: device.project(x)  # type: ignore[misc]
        made.calls[f"product {name}-sided"] = lambda product=product, x=vectors: product(x)  # type: ignore[misc]


def _add_effects(made: Contenders, job: Job, signs: VectorArray) -> None:
    """Ternary vectors through the device, eight frames each, with one effect of the bench or another.

    Binary patterns would not do: with a DMD that leaks, the device shows their empty side too.
    """
    from optical_dfa.devices import EmulatedDevice  # pydantic: not for a peer's process

    patterns = (signs > 0).view(np.int8)
    signal_e = LIT_E / max(1.0, float(patterns.sum(axis=1).mean()))
    product = make_product(job.n_in, 2 * job.n_pixels, SEED)
    made.checked_rows += check_rows(product(signs), signs, SEED, CHECKED_ROWS)
    for name, sections in EFFECTS.items():
        sizes = {"n_inputs": job.n_in, "n_outputs": 2 * job.n_pixels}
        device = EmulatedDevice(**sizes, photometry={"signal_e_per_feature": signal_e}, **sections).open()  # type: ignore[arg-type]
        made.calls[f"effect {name}"] = lambda device=device: device.project(signs)  # type: ignore[misc]
        if name == DRIFT:
            made.calls[f"binary {name}"] = lambda device=device: device.project(patterns)  # type: ignore[misc]


def _check_snr(found: npt.NDArray[np.float32], true: npt.NDArray[np.float64]) -> None:
    snr_db = 10 * math.log10(float(np.square(true).sum() / np.square(found - true).sum()))
    if snr_db < SMALLEST_SNR_DB:
        raise ArithmeticError(f"the readout has {snr_db:.1f} dB, less than {SMALLEST_SNR_DB:g}")


def _check_images(images: list[npt.NDArray[Any]]) -> None:
    """Backends agree: at most one digital number, in at most one pixel of 10,000 (and a few in a small image)."""
    for image in images[1:]:
        difference = np.abs(image.astype(np.int32) - images[0])
        if difference.max() > 1 or np.count_nonzero(difference) > 3 + 1e-4 * difference.size:
            raise ArithmeticError("the images of the two backends differ by more than rounding")
