"""What a run leaves behind: metrics per epoch and its result."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from optical_dfa.files import write_text_whole
from optical_dfa.run_errors import RunFolderError


@dataclass(frozen=True)
class EpochMetrics:
    """One row of `metrics.csv`."""

    epoch: int
    """From 1."""
    train_loss: float
    """Mean cross-entropy over the epoch, each batch before its update."""
    train_accuracy: float
    """Fraction of the training images classified correctly, each batch before its update."""
    test_accuracy: float
    """Fraction of the test images classified correctly after the epoch."""
    seconds: float
    """Wall time of the training steps."""
    frames: int
    """Frames displayed."""
    device_seconds: float
    """Time the modelled device would need for them."""
    device_joules: float
    """Energy it would use in that time."""


@dataclass(frozen=True)
class Result:
    """What a finished run came to; `result.json`."""

    folder: Path
    test_accuracy: float
    """Fraction of the test images classified correctly after the last epoch."""
    seconds: float
    frames: int
    device_seconds: float
    device_joules: float
    snr_db: float | None
    """Signal-to-noise ratio of the device on what it displays for the trained net; inf: exact; None: no device."""
    history: tuple[EpochMetrics, ...]

    @classmethod
    def of(cls, folder: Path, history: Sequence[EpochMetrics], snr_db: float | None) -> "Result":
        """The result of the run with this history."""
        return cls(
            folder=folder,
            test_accuracy=history[-1].test_accuracy,
            seconds=sum(row.seconds for row in history),
            frames=sum(row.frames for row in history),
            device_seconds=round(sum(row.device_seconds for row in history), 6),
            device_joules=round(sum(row.device_joules for row in history), 6),
            snr_db=snr_db,
            history=tuple(history),
        )

    def summary(self) -> str:
        """Accuracy, cost and folder, for people."""
        epochs = f"{len(self.history)} epoch{'s' * (len(self.history) > 1)}"
        lines = [f"test accuracy {self.test_accuracy:.2%} after {epochs}, {self.seconds:.1f} s of training"]
        if self.frames:
            machine = f"{self.device_seconds:,.1f} s and {self.device_joules:,.0f} J on the modelled machine"
            lines.append(f"{self.frames:,} frames, {machine}")
        if self.snr_db is not None and math.isfinite(self.snr_db):
            lines.append(f"measured SNR {self.snr_db:.1f} dB")
        return "\n".join([*lines, f"run folder {self.folder}"])

    def as_dict(self) -> dict[str, Any]:
        """Every value but the folder, which may be moved."""
        values = asdict(self)
        del values["folder"]
        return values

    def write(self, path: Path) -> None:
        """Write `result.json`."""
        write_json(path, self.as_dict())

    @classmethod
    def read(cls, path: Path) -> "Result":
        """Read a `result.json` that `write` wrote.

        Raises:
            RunFolderError: it is damaged.
        """
        values = read_json(path)
        snr_db, history = values["snr_db"], tuple(EpochMetrics(**row) for row in values["history"])
        return cls.of(path.parent, history, None if snr_db is None else float(snr_db))


def write_metrics(path: Path, history: Sequence[EpochMetrics]) -> None:
    """Write `metrics.csv`, whole: numbers in full precision, one row an epoch."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(EpochMetrics))
    writer.writerows(asdict(row).values() for row in history)
    write_text_whole(path, text.getvalue())


def write_json(path: Path, values: Any) -> None:
    """Write JSON for any reader: infinite and undefined numbers become text, which `float` understands."""
    write_text_whole(path, json.dumps(_finite(values), indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote.

    Raises:
        RunFolderError: it is damaged.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise RunFolderError(f"{path}: damaged ({error}): delete it and --resume; what it held is made again") from None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
