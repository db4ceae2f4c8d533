"""The files of a digital twin: a preset that names a measured matrix and maps of its pixels."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from optical_dfa.devices.calibration import CalibrationFileError, read_calibration
from optical_dfa.devices.errors import InvalidConfig
from optical_dfa.devices.faults import Fault
from optical_dfa.devices.matrix_file import MatrixFile, MatrixFileError
from optical_dfa.emulator import MeasuredLight

MAPS = ("background", "reference", "dark_dn", "image_shape")
"""Arrays of the file of maps: those of `MeasuredLight`, and rows and columns of the image."""


@dataclass(frozen=True)
class MeasuredFiles:
    """Where the measured light of a preset is."""

    matrix: Path
    """Matrix file, as of `optical-dfa measure-matrix`."""
    maps: Path
    """safetensors with `MAPS`."""

    def load(self) -> tuple[MeasuredLight, str, str]:
        """The light, the fingerprint of the device that it was measured on, and a hash that tells it from another.

        Raises:
            InvalidConfig: a file is missing, damaged, or does not go with the other.
        """
        try:
            file = MatrixFile(self.matrix)
            file.verify()
            arrays, record = read_calibration(self.maps, file.record.fingerprint)
            missing = [name for name in MAPS if name not in arrays]
            if missing:
                raise CalibrationFileError(f"{self.maps}: lacks {', '.join(missing)}: optical-dfa twin writes them")
            rows, columns = (int(n) for n in arrays["image_shape"])
            maps = {name: arrays[name].astype(np.float32) for name in MAPS[:3]}
            light = MeasuredLight((rows, columns), file.rows(0, file.n_outputs), **maps)
        except (MatrixFileError, ValueError) as error:
            message = f"the measured light of a twin cannot be read: {error}"
            raise InvalidConfig(f"preset: {message}", [Fault(("preset",), message)]) from None
        digest = hashlib.sha256(file.sha256.encode() + b"".join(maps[name].tobytes() for name in MAPS[:3]))
        return light, record.fingerprint, digest.hexdigest()
