"""What a run sees of its device while it trains: a look at its health now and then, and raw frames on demand."""

import csv
import io
import json
import math
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path

from optical_dfa.devices import FrameTap
from optical_dfa.files import write_text_whole, write_whole
from optical_dfa.health import HealthSample
from optical_dfa.health.check import last_frames
from optical_dfa.health.verdict import DRIFT, SATURATED, SNR_DB, SUPERPOSITION
from optical_dfa.training.run import Run
from optical_dfa.training.run_folder import RunFolder


class Watch:
    """Looks at the device of a run.

    Args:
        run: the run; without a device, nothing is looked at.
        folder: its folder: `health.csv` and `events.jsonl`; a file `dump-frames` in it asks for raw frames.
    """

    def __init__(self, run: Run, folder: RunFolder) -> None:
        self._run, self._folder = run, folder
        self._tap: FrameTap | None = None
        self._bad: set[str] = set()

    def before_step(self) -> None:
        """Look, if it is time to; before a step, so that a run stopped by a fault of the look looks again."""
        run = self._run
        if run.feedback is None:
            return
        if self._tap is None and self._folder.dump_request.exists():
            self._tap = last_frames(run.feedback.device)
            if self._tap is None:
                self._folder.dump_request.unlink()
                self._tell("frames", f"device {run.feedback.device.info.name!r} shows no frames: none to dump")
        if (sample := run.look()) is not None:
            _write_health(self._folder.health, run.health)
            self._judge(sample)

    def after_step(self) -> None:
        """Write the raw frames of the step, if they were asked for."""
        request = self._folder.dump_request
        if self._tap is None or self._tap.last is None or not request.exists():
            return
        from safetensors.numpy import save

        run, arrays = self._run, self._tap.last
        path = self._folder.path / f"frames-{run.epoch + 1}-{run.step}.safetensors"
        content = save(arrays, {"position": run.position})
        write_whole(path, lambda file: file.write(content))
        request.unlink()
        self._tell("frames", f"{len(arrays['frames'])} raw frames of the last request in {path.name}")

    def _judge(self, sample: HealthSample) -> None:
        """Tell when a figure gets bad, once, and when it is good again."""
        bad = {
            f"SNR {sample.snr_db:.1f} dB, below {SNR_DB[0]:g}": sample.snr_db < SNR_DB[0],
            f"superposition error {sample.superposition_error:.1%}": sample.superposition_error > SUPERPOSITION[1],
            f"{sample.saturated_fraction:.2%} saturated": sample.saturated_fraction > SATURATED[1],
            f"correlation with the first look {sample.drift:.3f}": sample.drift < DRIFT[1],
        }
        kinds = {text.split()[0] for text, is_bad in bad.items() if is_bad}
        if kinds - self._bad:
            self._tell("health", "; ".join(text for text, is_bad in bad.items() if is_bad))
        self._bad = kinds

    def _tell(self, kind: str, message: str) -> None:
        append_event(self._folder, {"at": self._run.position, "kind": kind, "message": message})


def append_event(folder: RunFolder, values: dict[str, object]) -> None:
    """Add a line to `events.jsonl`."""
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **values}
    with folder.events.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _write_health(path: Path, samples: list[HealthSample]) -> None:
    """`health.csv`, whole: one row a look."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(HealthSample))
    writer.writerows(asdict(sample).values() for sample in samples)
    write_text_whole(path, text.getvalue())


def in_words(sample: HealthSample) -> str:
    """The last look, short, for a line of progress."""
    snr = "exact" if sample.snr_db == math.inf else f"SNR {sample.snr_db:.1f} dB"
    return f"{snr}, superposition {sample.superposition_error:.1%}, saturated {sample.saturated_fraction:.2%}"
