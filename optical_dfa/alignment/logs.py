"""Where measurements go: a file of JSON lines, TensorBoard."""

import json
import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from optical_dfa.alignment.report import Alignment
from optical_dfa.files import write_text_whole
from optical_dfa.run_errors import MissingExtra, RunFolderError


class JsonLines:
    """Appends each measurement to a file, a line of JSON each, and sees to it that it is written at once.

    Args:
        path: the file; made when the first measurement comes.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __call__(self, found: Alignment) -> None:
        """Append a measurement."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(found.to_json() + "\n")

    def read(self) -> list[Alignment]:
        """What the file holds; empty if there is none.

        Raises:
            RunFolderError: it is damaged.
        """
        if not self.path.exists():
            return []
        return [Alignment.from_dict(values) for values in self._values(self.path.read_text("utf-8").splitlines())]

    def keep_before(self, step: int) -> None:
        """Drop measurements of that step and later ones, and a last line that was half written: they are made again."""
        if not self.path.exists():
            return
        text = self.path.read_text("utf-8")
        lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
        kept = [line for line, values in zip(lines, self._values(lines), strict=True) if values["step"] < step]
        if "".join(kept) != text:
            write_text_whole(self.path, "".join(kept))

    def _values(self, lines: Sequence[str]) -> list[Any]:
        try:
            return [json.loads(line) for line in lines]
        except ValueError as error:
            raise RunFolderError(f"{self.path}: damaged ({error}): delete it; measurements go on without it") from None


class TensorBoard:
    """Writes each measurement as scalars under `alignment/`; needs the extra `tensorboard`. A context manager.

    Args:
        folder: folder for the event files: `tensorboard --logdir FOLDER` shows it.
        first_step: step from which on the run is taken up again: what an earlier one wrote of it is not shown.

    Raises:
        MissingExtra: TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path, first_step: int | None = None) -> None:
        if find_spec("tensorboard") is None:
            raise MissingExtra("this log needs TensorBoard: pip install 'optical_dfa[tensorboard]'")
        from torch.utils.tensorboard import SummaryWriter  # optional, and slow to import

        self._writer: Any = SummaryWriter(str(folder), purge_step=first_step)

    def __call__(self, found: Alignment) -> None:
        """Write a measurement; what is not finite is left out."""
        for name, value in found.scalars().items():
            if math.isfinite(value):
                self._writer.add_scalar(f"alignment/{name}", value, found.step)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
