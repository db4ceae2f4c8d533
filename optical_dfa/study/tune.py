"""Runs the search of a study, and writes what it found as a file that the study can name as `tuned`."""

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from optical_dfa.config.yaml_marks import dump_yaml
from optical_dfa.files import write_text_whole
from optical_dfa.run_errors import ConfigError
from optical_dfa.study.code_version import code_version
from optical_dfa.study.file import Study
from optical_dfa.study.run import POLL_S, Place, processes
from optical_dfa.study.search import Search, methods_of
from optical_dfa.study.storage import open_storage


def tune(study: Study, place: Place, workers: int, show: Callable[[int, int], None]) -> Path:
    """Search the settings of every method.

    Args:
        study: loaded without what an earlier search found.
        place: folder and storage.
        workers: processes to start here.
        show: called with the trials done and in all, about every second.

    Returns:
        The file written: the one that the study names as `tuned`, or `tuned.yaml` in the folder.

    Raises:
        ConfigError: the study has no section `tune`.
        ChildProcessError: every worker died.
    """
    if study.config.tune is None:
        raise ConfigError(f"{study.path}: has no section tune: say there what is searched, for instance its space")
    place.folder.mkdir(parents=True, exist_ok=True)
    storage = open_storage(place.storage_url)
    searches = {method: Search(storage, study, method) for method in methods_of(study.config)}
    total = study.config.tune.trials * len(searches)

    def done() -> int:
        return sum(len(search.finished()) for search in searches.values())

    show(done(), total)
    command = [sys.executable, "-m", "optical_dfa.study.worker", str(study.path), "--tune"]
    with processes(command, place, workers) as children:
        while done() < total and any(child.poll() is None for child in children):
            time.sleep(POLL_S)
            show(done(), total)
    if done() < total:
        raise ChildProcessError(
            f"{total - done()} trials are left and every worker has ended; see the logs in {place.folder / 'workers'}, "
            "and give the same command again to go on"
        )
    path = place.folder / "tuned.yaml" if study.config.tuned is None else study.path.parent / study.config.tuned
    write_text_whole(path, _text(study, searches))
    return path


def _text(study: Study, searches: dict[str, Search]) -> str:
    assert study.config.tune is not None
    held = f"{100 * study.config.tune.validation_fraction:g} % of the training images, held out"
    lines = [
        f"# What `optical-dfa tune {study.path}` found, {datetime.now(UTC).date()}, code {code_version()}.",
        f"# Accuracy on {held}; best of {study.config.tune.trials} trials each:",
    ]
    found = {}
    for method, search in searches.items():
        if best := search.best():
            found[method], accuracy = best
            lines.append(f"#   {method}: {100 * accuracy:.2f} %")
    return "\n".join(lines) + "\n" + dump_yaml(found)
