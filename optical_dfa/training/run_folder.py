"""The folder of a run: what lies where, and when it may be written to."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from optical_dfa.config import RunConfig
from optical_dfa.config.yaml_marks import YamlSyntaxError, parse_marked
from optical_dfa.files import PART, write_text_whole
from optical_dfa.run_errors import RunFolderError


class RunFolder:
    """Files of one run: `config.yaml`, `provenance.json`, `metrics.csv`, `checkpoint.pt`, and `result.json` at its end.

    Where alignment is measured, `alignment.jsonl`, and `alignment.png` at the end.

    Args:
        path: the folder; made by `create`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.provenance = self.path / "provenance.json"
        self.metrics = self.path / "metrics.csv"
        self.checkpoint = self.path / "checkpoint.pt"
        self.events = self.path / "events.jsonl"
        self.health = self.path / "health.csv"
        self.dump_request = self.path / "dump-frames"
        self.result = self.path / "result.json"
        self.alignment = self.path / "alignment.jsonl"
        self.alignment_figure = self.path / "alignment.png"
        self.tensorboard = self.path / "tensorboard"

    @property
    def finished(self) -> bool:
        """The run in it has come to its end."""
        return self.result.exists()

    def check(self, config: RunConfig, resume: bool) -> None:
        """Refuse what would overwrite or mix runs. Writes nothing.

        Raises:
            RunFolderError: there is something in the way of a new run; or nothing to resume, or a run with another
                configuration.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path}: is a file: give the run a folder with -o")
        holds_run = self.config.exists()
        others = self.path.exists() and any(file.suffix != PART for file in self.path.iterdir())
        if not holds_run and others:
            raise RunFolderError(f"{self.path}: holds other files and no run: give the run its own folder with -o")
        if resume and not holds_run:
            raise RunFolderError(f"{self.path}: holds no run to resume: leave out --resume, or name its folder with -o")
        if not holds_run:
            return
        differences = list(_differences(self._saved_config(), config.as_dict()))
        state = "a finished run" if self.finished else "an unfinished run"
        if differences:
            raise RunFolderError(
                f"{self.path}: holds {state} with another configuration; nothing was changed. Give the new run its own "
                "folder with -o, or resume with the settings of the old one:\n" + "\n".join(differences)
            )
        if not resume:
            verb = "show its result" if self.finished else "continue it"
            raise RunFolderError(f"{self.path}: holds {state}: --resume to {verb}, or -o another folder for a new one")

    def prepare(self, config: RunConfig) -> None:
        """Make the folder with its `config.yaml`, and remove what a killed process left half written."""
        self.path.mkdir(parents=True, exist_ok=True)
        for part in self.path.glob(f".*{PART}"):
            part.unlink()
        write_text_whole(self.config, config.to_yaml())

    def _saved_config(self) -> Any:
        try:
            return parse_marked(self.config.read_text("utf-8")).value
        except (OSError, UnicodeDecodeError, YamlSyntaxError) as error:
            raise RunFolderError(f"{self.config}: cannot be read ({error}): give the run another folder, -o") from None


def _differences(saved: Any, now: Any, path: str = "") -> Iterator[str]:
    if isinstance(saved, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*saved, *now]):
            yield from _differences(saved.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif saved != now:
        yield f"  {path}: {saved!r} in the folder, {now!r} now"
