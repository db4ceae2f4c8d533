"""Runs a study: fills the queue, starts workers, waits for them, and writes what they found."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from optical_dfa.files import write_text_whole
from optical_dfa.run_errors import InputError
from optical_dfa.study.file import Study
from optical_dfa.study.queue import Progress, Queue
from optical_dfa.study.storage import STORAGE_VARIABLE, open_storage, redacted, sqlite_url

POLL_S = 1.0
"""Seconds between looks at the progress."""

ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "OPTICAL_DFA_THREADS"), "1"
)
"""Environment of a worker. BLAS reads it when it is loaded."""


@dataclass(frozen=True)
class Place:
    """Where a study is run and kept."""

    folder: Path
    storage_url: str

    @classmethod
    def of(cls, folder: Path, storage: str | None) -> "Place":
        """A folder, and a storage by URL, by environment variable, or in the folder."""
        return cls(folder, storage or os.environ.get(STORAGE_VARIABLE) or sqlite_url(folder))

    @property
    def shown(self) -> str:
        """The storage without its password."""
        return redacted(self.storage_url)


def open_queue(study: Study, place: Place) -> Queue:
    """The queue of a study; makes folder and storage if need be.

    Raises:
        InputError: the folder or the storage cannot be used, or an extra is missing.
    """
    if place.folder.exists() and not place.folder.is_dir():
        raise InputError(f"{place.folder}: is a file: give the study a folder with -o")
    place.folder.mkdir(parents=True, exist_ok=True)
    write_text_whole(place.folder / "study.yaml", study.text)
    return Queue(open_storage(place.storage_url), study.name, study.cells, study.config.attempts)


def run_study(
    study: Study, queue: Queue, place: Place, workers: int, given_up: bool, show: Callable[[Progress], None]
) -> Progress:
    """Run every cell that is missing.

    Args:
        study: what to run.
        queue: its cells.
        place: folder and storage.
        workers: processes to start here; others may work on the same storage elsewhere.
        given_up: try cells again that failed too often.
        show: called with the progress, about every second.

    Returns:
        Where the study stands at the end.

    Raises:
        ChildProcessError: every worker died, and cells are left.
    """
    queue.fill(given_up)
    progress = queue.progress()
    show(progress)
    command = [sys.executable, "-m", "optical_dfa.study.worker", str(study.path)]
    if progress.open:
        with processes(command, place, min(workers, progress.open)) as children:
            while progress.open and any(child.poll() is None for child in children):
                time.sleep(POLL_S)
                progress = queue.progress()
                show(progress)
        progress = queue.progress()
    if progress.open:
        codes = ", ".join(str(child.returncode) for child in children)
        raise ChildProcessError(
            f"{progress.open} cells are left and every worker has ended (exit codes {codes}); see the logs in "
            f"{place.folder / 'workers'}, and give the same command again to go on"
        )
    return progress


@contextmanager
def processes(command: Sequence[str], place: Place, count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """That many processes of a command, each with a log in the folder; asked to end when the block is left early."""
    logs = place.folder / "workers"
    logs.mkdir(exist_ok=True)
    environment = {**os.environ, **ONE_THREAD, STORAGE_VARIABLE: place.storage_url}
    children = []
    try:
        for number in range(count):
            with (logs / f"{os.getpid()}-{number}.log").open("wb") as log:
                children.append(
                    subprocess.Popen(
                        [*command, "--parent", str(os.getpid())], stdout=log, stderr=subprocess.STDOUT, env=environment
                    )
                )
        yield children
    finally:
        for child in children:
            if child.poll() is None:
                child.terminate()
        for child in children:
            child.wait()
