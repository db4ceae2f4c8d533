"""Calibrations and checks in files: safetensors with any arrays, and how they came about as JSON.

Whatever reads safetensors reads the file. `__metadata__` holds `format`, `version` and `record`, a
`CalibrationRecord`.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from optical_dfa.devices.faults import listed, validation_faults

FORMAT = "optical_dfa.calibration"
VERSION = "1"

GAIN = "gain"
"""Name of the array (n_outputs,) that brings outputs to unit gain; 0 for dead ones."""

Arrays = dict[str, npt.NDArray[Any]]


class CalibrationFileError(ValueError):
    """A file that holds no calibration, a damaged one, or that of another device."""


@dataclass(frozen=True)
class CalibrationRecord:
    """How a calibration came about."""

    __pydantic_config__ = {"extra": "forbid", "strict": True}  # noqa: RUF012

    device: str
    """Name of the device."""
    fingerprint: str
    """Of the device: a calibration of another is refused."""
    date: str
    """When, ISO 8601."""
    settings: dict[str, Any]
    """Options of the device."""


_RECORD = TypeAdapter(CalibrationRecord)


def calibration_bytes(arrays: Arrays, record: CalibrationRecord) -> bytes:
    """The content of a calibration file."""
    from safetensors.numpy import save

    metadata = {"format": FORMAT, "version": VERSION, "record": json.dumps(asdict(record))}
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata)


def read_calibration(path: str | Path, fingerprint: str | None = None) -> tuple[Arrays, CalibrationRecord]:
    """Arrays and record of a calibration file.

    Args:
        path: the file.
        fingerprint: of the device that it must belong to; None: any.

    Raises:
        CalibrationFileError: there is no such file, it is no calibration, or one of another device.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            if (metadata.get("format"), metadata.get("version")) != (FORMAT, VERSION):
                given = f"{metadata.get('format')!r}, version {metadata.get('version')!r}"
                raise CalibrationFileError(
                    f"{path}: must be a calibration ({FORMAT!r}, version {VERSION!r}); got {given}: optical-dfa device "
                    "check writes one"
                )
            record = _RECORD.validate_json(metadata.get("record", ""))
            arrays = {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118  # no mapping
    except ValidationError as error:
        faults = listed(list(validation_faults(error, CalibrationRecord)))
        raise CalibrationFileError(f"{path}: its record is damaged:{faults}") from None
    except (OSError, SafetensorError) as error:
        raise CalibrationFileError(f"{path}: cannot be read ({error}): optical-dfa device check writes one") from None
    if fingerprint is not None and record.fingerprint != fingerprint:
        raise CalibrationFileError(
            f"{path}: belongs to device {record.fingerprint!r} ({record.device}), this one is {fingerprint!r}: check "
            "this device, and use that file"
        )
    return arrays, record
