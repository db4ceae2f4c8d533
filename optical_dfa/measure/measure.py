"""Measure the matrix of a device by showing it Hadamard probes."""

import dataclasses
import datetime
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from optical_dfa.devices import ProjectionDevice, SaturationWarning, Usage
from optical_dfa.devices.matrix_file import MatrixFile, MatrixRecord, Rows, write_matrix
from optical_dfa.files import write_whole
from optical_dfa.measure.probes import BlockHadamard, full_weight
from optical_dfa.run_errors import InputError

BLOCK_BYTES = 1 << 25
"""Fields held at once, roughly; the rest waits in a file beside the result."""

MIN_VECTORS = 16
"""Fewest vectors projected at once, whatever they take: an emulator that makes T anew has to do it for each call."""

TRIAL_PROBES = 16

MAX_SATURATED = 1e-4
"""Fraction of saturated pixel readings that a measurement accepts without a warning. Clipping is a bias that repeats do
not average out; measured with the preset phase-stepping, 2e-5 adds 3 % to the error power, 5e-3 multiplies it by 8."""

Progress = Callable[[int, int], None]
"""Takes (vectors shown, vectors in all)."""


def measure_matrix(
    device: ProjectionDevice,
    path: str | Path,
    *,
    repeats: int = 2,
    weight: int | None = None,
    progress: Progress | None = None,
) -> MatrixFile:
    """Measure the matrix of a device and write it to a file, which `open_device("measured", path=…)` opens.

    Unbiased: an entry is the mean of weight · repeats readings, with their signs, so its variance is that of an output
    divided by as much. That variance is estimated for each output, from the repeats of each probe and from what the
    probes leave unexplained where they are more than the inputs; the file holds the standard errors.

    Holds a few times `BLOCK_BYTES`, whatever the size of the matrix, beside a temporary file of 4 · probes · outputs
    bytes in the folder of the result.

    Args:
        device: open, linear.
        path: safetensors file to write; must not exist.
        repeats: times each probe is shown.
        weight: inputs lit by one probe, a power of two. None: as many as do not saturate the camera, by trial; see
            `BlockHadamard`.
        progress: told how far it is.

    Raises:
        InputError: something given cannot be used; nothing was displayed.
        DeviceError: the device failed; nothing was written.

    Warns:
        SaturationWarning: more than `MAX_SATURATED` of the pixel readings are saturated: the matrix is biased.
    """
    path, info = Path(path), device.info
    if not info.linear:
        raise InputError(f"device {info.name!r} is not linear: it multiplies by no matrix that could be measured")
    if not isinstance(repeats, int) or isinstance(repeats, bool) or repeats < 1:
        raise InputError(f"repeats must be an int, 1 or more; got {repeats!r}")
    check_free(path)
    if weight is not None:
        try:
            BlockHadamard(info.n_inputs, weight)
        except ValueError as error:
            raise InputError(str(error)) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SaturationWarning)  # of the trial; that of the measurement has its own bar
        probes = BlockHadamard(info.n_inputs, weight or _unsaturated_weight(device))
        before = dataclasses.replace(device.usage)
        with tempfile.TemporaryFile(dir=path.parent) as spool:
            scatter = _show(device, probes, repeats, spool, progress)
            spent = _difference(device.usage, before)
            saturated = spent.saturated_pixels / spent.pixel_readings if spent.pixel_readings else None
            record = MatrixRecord(
                device=info.name,
                outputs_per_mode=2 if info.outputs_per_mode == 2 else 1,
                date=_now(),
                fingerprint=device.fingerprint,
                settings=dict(device.settings),
                probes=probes.n_probes,
                weight=probes.weight,
                lit=probes.lit,
                repeats=repeats,
                frames=spent.frames,
                device_seconds=float(spent.device_seconds),
                saturated_fraction=saturated,
            )
            shape = (info.n_outputs, info.n_inputs)
            rows = _solve(probes, spool, scatter, repeats)
            write_whole(path, lambda file: write_matrix(file, shape, rows, record))
    if saturated is not None and saturated > MAX_SATURATED:
        warnings.warn(
            f"{saturated:.2%} of the pixel readings are saturated, more than {MAX_SATURATED:.2%}: the matrix is biased "
            "towards smaller entries; lower the light of a feature or of the reference"
            + (", or the weight of the probes" if probes.weight > 1 else ""),
            SaturationWarning,
            stacklevel=2,
        )
    return MatrixFile(path)


def save_matrix(
    path: str | Path,
    matrix: npt.NDArray[np.floating],
    *,
    outputs_per_mode: int,
    noise: npt.NDArray[np.floating] | None = None,
    measured_on: str = "",
) -> MatrixFile:
    """Write a matrix that was measured by other means to a file, which `open_device("measured", path=…)` opens.

    Args:
        path: safetensors file to write; must not exist.
        matrix: (outputs, inputs), finite; unit gain: the mean square of its entries is 1.
        outputs_per_mode: 2 if rows 2m and 2m+1 are the quadratures of one speckle mode, else 1.
        noise: standard error of the entries of each row, (outputs,); None: unknown.
        measured_on: what it was measured on, free text.

    Raises:
        InputError: something given cannot be used; nothing was written.
    """
    path = Path(path)
    check_free(path)
    if outputs_per_mode not in (1, 2):
        raise InputError(f"outputs_per_mode must be 1 or 2; got {outputs_per_mode!r}")
    if matrix.ndim != 2 or not matrix.size or not np.isfinite(matrix).all():
        raise InputError(f"matrix must be finite and of shape (outputs, inputs); got shape {matrix.shape}")
    if noise is None:
        noise = np.full(len(matrix), np.nan)
    if noise.shape != matrix.shape[:1]:
        raise InputError(f"noise must have one value for each of the {len(matrix)} outputs; got shape {noise.shape}")
    record = MatrixRecord(device=measured_on, outputs_per_mode=2 if outputs_per_mode == 2 else 1, date=_now())
    block = (matrix.astype(np.float32), noise.astype(np.float32))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: write_matrix(file, block[0].shape, [block], record))
    return MatrixFile(path)


def _unsaturated_weight(device: ProjectionDevice) -> int:
    """Largest weight of a few trial probes that do not saturate the camera; all inputs where nobody counts."""
    weight = full_weight(device.info.n_inputs)
    while weight > 1:
        probes = BlockHadamard(device.info.n_inputs, weight)
        before = dataclasses.replace(device.usage)
        device.project(probes.vectors(0, min(TRIAL_PROBES, probes.n_probes)))
        spent = _difference(device.usage, before)
        if not spent.saturated_pixels:
            break
        weight //= 2
    return weight


def _show(
    device: ProjectionDevice, probes: BlockHadamard, repeats: int, spool: IO[bytes], progress: Progress | None
) -> npt.NDArray[np.float64]:
    """Show every probe `repeats` times; means over repeats go to `spool`, float32 (n_probes, n_outputs).

    Returns:
        Sum of squares about those means, of each output, float64 (n_outputs,).
    """
    n_outputs = device.info.n_outputs
    scatter = np.zeros(n_outputs)
    step = max(1, max(MIN_VECTORS, BLOCK_BYTES // (4 * n_outputs)) // repeats)
    for first in range(0, probes.n_probes, step):
        vectors = probes.vectors(first, min(first + step, probes.n_probes))
        fields = device.project(np.repeat(vectors, repeats, axis=0)).reshape(-1, repeats, n_outputs)
        mean = fields.mean(axis=1)
        if repeats > 1:
            for repeat in range(repeats):  # one at a time: no second copy of all fields
                scatter += np.square(fields[:, repeat] - mean).sum(axis=0, dtype=np.float64)
        spool.write(mean.astype(np.float32, copy=False).data)
        if progress:
            progress(repeats * (first + len(vectors)), repeats * probes.n_probes)
    spool.flush()
    return scatter


def _solve(
    probes: BlockHadamard, spool: IO[bytes], scatter: npt.NDArray[np.float64], repeats: int
) -> Iterator[tuple[Rows, npt.NDArray[np.float32]]]:
    """Rows of the matrix with the standard errors of their entries, a block at a time."""
    freedom = probes.n_probes * (repeats - 1) + probes.n_probes - probes.n_inputs
    width = max(1, BLOCK_BYTES // (16 * probes.n_probes))
    for first in range(0, len(scatter), width):
        part = slice(first, first + width)
        # read, not mapped: mapped pages would fill the memory that other programs see as taken
        fields = np.empty((probes.n_probes, len(scatter[part])))
        for probe, answers in enumerate(fields):
            spool.seek(4 * (probe * len(scatter) + first))
            answers[:] = np.frombuffer(spool.read(4 * len(answers)), np.float32)
        rows, residual = probes.solve(fields)
        squares = scatter[part] + repeats * residual  # the mean of repeats has 1/repeats of the variance
        variance = squares / freedom if freedom else np.full(len(rows), np.nan)
        error = np.sqrt(variance / (probes.weight * repeats))
        yield rows.astype(np.float32), error.astype(np.float32)


def _difference(after: Usage, before: Usage) -> Usage:
    return Usage(**{name: value - getattr(before, name) for name, value in vars(after).items()})


def check_free(path: Path) -> None:
    """Raise `InputError` if there is something at `path`: a measurement is never overwritten."""
    if path.exists():
        raise InputError(f"{path}: exists already: remove it, or give another name")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
