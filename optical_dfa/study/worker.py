"""A worker: takes one cell after the other until none is left. `python -m optical_dfa.study.worker` is one process.

It has one thread, so that a result is the same to the bit however many workers there are, and leaves when the process
that started it is gone.
"""

import argparse
import gc
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import FrameType
from typing import Any, NoReturn

from optical_dfa.errors import NonFiniteError
from optical_dfa.run_errors import LossNotFinite
from optical_dfa.study.cell import run_cell, task_of
from optical_dfa.study.file import load_study
from optical_dfa.study.process import Worker
from optical_dfa.study.queue import Claim, Queue
from optical_dfa.study.search import Search, methods_of
from optical_dfa.study.storage import STORAGE_VARIABLE, open_storage
from optical_dfa.training.provenance import process as describe

POLL_S = 1.0
"""Seconds between looks at cells that others still work on."""


class WorkerStopped(Exception):
    """Asked to stop, or left alone."""


def work(queue: Queue, tell: Callable[[str], None], stop: Callable[[], bool], alone: bool = False) -> None:
    """Run cells until all are done or given up.

    Args:
        queue: of the study.
        tell: called with a line for each cell.
        stop: asked after each epoch and between cells; True ends the work.
        alone: the process does nothing else. What the first cell imported is then left out of garbage collections,
            which went through it for 0.3 s each.

    Raises:
        WorkerStopped, KeyboardInterrupt: the cell under way was given back.
    """
    while True:
        asked = time.perf_counter()
        claim = queue.claim()
        if claim is None:
            queue.fill()
            claim = queue.claim()
        if claim is None:
            if not queue.progress().open:
                return
            time.sleep(POLL_S)
            if stop():
                raise WorkerStopped
            continue
        _do(queue, claim, asked, tell, stop)
        if alone and not gc.get_freeze_count():
            gc.collect()
            gc.freeze()


def _do(queue: Queue, claim: Claim, asked: float, tell: Callable[[str], None], stop: Callable[[], bool]) -> None:
    def after_epoch() -> None:
        if stop():
            raise WorkerStopped

    config, began, cpu = claim.cell.config, time.perf_counter(), time.process_time()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        with queue.beating(claim):
            result = run_cell(config, task_of(config.task.name, config.task.folder), after_epoch)
            ended = time.perf_counter()
            timing: dict[str, Any] = {
                "started": started,
                "seconds": round(ended - began, 4),
                "cpu_seconds": round(time.process_time() - cpu, 4),
                "machine": describe(),
            }
            kept = queue.finish(claim, result, result["test_accuracy"], timing)
    except (WorkerStopped, KeyboardInterrupt):
        queue.release(claim)
        raise
    except Exception as error:
        final = isinstance(error, LossNotFinite | NonFiniteError)
        queue.fail(claim, f"{type(error).__name__}: {error}", final)
        tell(f"{claim.cell.key} failed: {type(error).__name__}: {error}")
        return
    stored = time.perf_counter()
    overhead = began - asked + stored - ended
    tell(
        f"{claim.cell.key} {result['test_accuracy']:.4f} {stored - asked:.3f} s, cpu {timing['cpu_seconds']:.3f} s, "
        f"overhead {overhead:.3f} s" + ("" if kept else ", given to another worker meanwhile")
    )


def seek(search: Search, tell: Callable[[str], None], stop: Callable[[], bool]) -> None:
    """Run trials of a search until there are enough of them.

    Raises:
        WorkerStopped, KeyboardInterrupt: the trial under way was given back.
    """

    def after_epoch() -> None:
        if stop():
            raise WorkerStopped

    while True:
        trial = search.take()
        if trial is not None:
            search.evaluate(trial, after_epoch)
            tell(f"{search.study_name} trial {trial.number} {trial.params}")
        elif search.unfinished():
            time.sleep(POLL_S)
            after_epoch()
        else:
            return


def main() -> int:
    """Entry point of the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("study")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--parent", type=int, required=True)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    study = load_study(arguments.study, with_tuned=not arguments.tune)
    storage = open_storage(os.environ[STORAGE_VARIABLE])

    def left_alone() -> bool:
        return os.getppid() != int(arguments.parent)

    def tell(line: str) -> None:
        print(line, flush=True)

    tell(f"worker {Worker.here().pid}")
    try:
        if arguments.tune:
            for method in methods_of(study.config):
                seek(Search(storage, study, method), tell, left_alone)
        else:
            work(Queue(storage, study.name, study.cells, study.config.attempts), tell, left_alone, alone=True)
    except (WorkerStopped, KeyboardInterrupt):
        return 130
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
