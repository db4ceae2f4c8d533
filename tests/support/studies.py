"""What tests of studies share: a small study, and a queue that is worked off in this process."""

from pathlib import Path
from typing import Any

from optical_dfa.study.file import Study, load_study
from optical_dfa.study.queue import Queue
from optical_dfa.study.storage import open_storage, sqlite_url
from optical_dfa.study.worker import work

SMALL = """\
title: A small study
question: Does it <work> & last?
base:
  model: {hidden: [12]}
  training: {epochs: 2, batch_size: 240, learning_rate: 1e-2}
  device: {name: emulator, preset: phase-stepping, fidelity: statistical, backend: numpy}
methods:
  optical DFA: {}
  exact DFA: {device: digital, feedback.ternarize: null}
  BP: {training.method: bp}
factors:
  read noise: {path: device.camera.read_noise_e, values: [0.0, 100.0, 400.0]}
seeds: [0, 1]
"""
"""Ten cells: three conditions with optics and two without, two seeds each."""


def study_of(folder: Path, text: str = SMALL, name: str = "small.yaml") -> Study:
    """The study of that text."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text, "utf-8")
    return load_study(path)


def queue_of(study: Study, folder: Path, **options: Any) -> Queue:
    """Its queue, in an SQLite storage in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return Queue(open_storage(sqlite_url(folder), **options), study.name, study.cells, study.config.attempts)


def work_off(queue: Queue) -> list[str]:
    """Run all that is left in this process; gives what the worker said."""
    told: list[str] = []
    queue.fill()
    work(queue, told.append, lambda: False)
    return told
