"""The queue: each cell done once, by whomever, whatever dies. Numbers of trials are counted, not times."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
from studies import SMALL, queue_of, study_of, work_off

from optical_dfa.run_errors import InputError, LossNotFinite
from optical_dfa.study import process, worker
from optical_dfa.study.process import Worker, is_dead
from optical_dfa.study.queue import Queue
from optical_dfa.study.storage import open_storage, redacted, sqlite_url


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cells that are not trained; gives the methods and seeds that were run, in order."""
    ran: list[str] = []

    def run(config: Any, _task: Any, _after: Any) -> dict[str, Any]:
        ran.append(f"{config.training.method} {config.training.seed}")
        return {"test_accuracy": config.training.seed / 10, "epochs": []}

    monkeypatch.setattr(worker, "run_cell", run)
    monkeypatch.setattr(worker, "POLL_S", 0.01)
    return ran


def states(queue: Queue) -> Counter[str]:
    return Counter(trial.state.name for trial in queue.study.get_trials(deepcopy=False))


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")  # threads restore each other's filters
def test_eight_workers_at_once_make_one_result_a_cell(tmp_path: Path, quick: list[str]) -> None:
    """All fill the queue at the same moment, each with an engine of its own, as processes have."""
    study, start = study_of(tmp_path), threading.Barrier(8)

    def one(_: int) -> None:
        start.wait(60)
        queue = queue_of(study, tmp_path)
        work_off(queue)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(8)))
    queue = queue_of(study, tmp_path)
    assert states(queue) == {"COMPLETE": 10}
    assert len(quick) == 10
    assert queue.results().keys() == {cell.key for cell in study.cells}


def test_a_rerun_does_only_what_is_missing(tmp_path: Path, quick: list[str]) -> None:
    queue = queue_of(study_of(tmp_path), tmp_path)
    work_off(queue)
    assert len(quick) == 10
    work_off(queue)
    assert len(quick) == 10
    more = study_of(tmp_path, SMALL.replace("seeds: [0, 1]", "seeds: [0, 1, 7]"))
    work_off(queue_of(more, tmp_path))
    assert quick[10:] == ["dfa 7"] * 4 + ["bp 7"]


def test_results_survive_a_change_of_choices(tmp_path: Path, quick: list[str]) -> None:
    """A new method is a new choice, which Optuna does not let a study have: the others are carried over."""
    work_off(queue_of(study_of(tmp_path), tmp_path))
    more = study_of(tmp_path, SMALL.replace("  BP:", "  shallow: {training.method: shallow}\n  BP:"))
    queue = queue_of(more, tmp_path)
    work_off(queue)
    assert quick[10:] == ["shallow 0", "shallow 1"]
    assert queue.progress().complete == 12
    assert states(queue) == {"COMPLETE": 12}


def test_optuna_reads_the_study(tmp_path: Path, quick: list[str]) -> None:
    """What optuna-dashboard shows: parameters, values and attributes of each trial."""
    queue = queue_of(study_of(tmp_path), tmp_path)
    work_off(queue)
    study = optuna.load_study(study_name=queue.study_name, storage=sqlite_url(tmp_path))
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    by_method = Counter(trial.params["method"] for trial in study.trials)
    assert by_method == {"optical DFA": 6, "exact DFA": 2, "BP": 2}
    for trial in study.trials:
        assert trial.value == trial.params["seed"] / 10
        assert ("read noise" in trial.params) == (trial.params["method"] == "optical DFA")
        assert trial.user_attrs["cell"] in queue.cells
        assert trial.user_attrs["result"]["test_accuracy"] == trial.value
        assert {"seconds", "cpu_seconds", "machine"} <= trial.user_attrs["timing"].keys()
    assert len(study.trials_dataframe()) == 10


def test_a_dead_worker_of_this_host_is_replaced_at_once(
    tmp_path: Path, quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(tmp_path)
    queue = queue_of(study, tmp_path)
    queue.fill()
    with monkeypatch.context() as patch:
        patch.setattr(Worker, "here", lambda: Worker(process._host(), 2**22 + 1, "1"))  # above every process number
        lost = [queue.claim() for _ in range(3)]
    assert all(lost)
    assert states(queue) == {"WAITING": 7, "RUNNING": 3}
    work_off(queue)
    assert states(queue) == {"COMPLETE": 10, "FAIL": 3}
    assert queue.progress().failed == {}
    assert len(quick) == 10


def test_a_worker_of_another_host_is_replaced_when_its_heart_stops(
    tmp_path: Path, quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = queue_of(study_of(tmp_path), tmp_path, heartbeat_s=1, grace_s=60)
    queue.fill()
    with monkeypatch.context() as patch:
        patch.setattr(Worker, "here", lambda: Worker("another host", 1, "1"))
        assert queue.claim() is not None
    queue.fill()
    assert states(queue) == {"WAITING": 9, "RUNNING": 1}
    storage = queue._storage
    with storage.engine.begin() as connection:  # its last heartbeat was an hour ago
        connection.exec_driver_sql("UPDATE trial_heartbeats SET heartbeat = datetime(heartbeat, '-1 hour')")
    work_off(queue)
    assert states(queue) == {"COMPLETE": 10, "FAIL": 1}
    assert len(quick) == 10


def test_a_result_that_comes_too_late_is_dropped(tmp_path: Path) -> None:
    queue = queue_of(study_of(tmp_path), tmp_path)
    queue.fill()
    claim = queue.claim()
    assert claim is not None
    queue.release(claim)
    assert not queue.finish(claim, {"test_accuracy": 1.0}, 1.0, {})
    assert states(queue) == {"WAITING": 9, "FAIL": 1}
    queue.fill()
    assert states(queue) == {"WAITING": 10, "FAIL": 1}


def test_failures_are_tried_again_and_then_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_of(tmp_path, SMALL + "attempts: 2\n")
    queue = queue_of(study, tmp_path)
    ran: Counter[str] = Counter()

    def run(config: Any, _task: Any, _after: Any) -> dict[str, Any]:
        ran[f"{config.training.method} {config.training.seed}"] += 1
        if config.training.method == "bp" and config.training.seed == 0:
            raise OSError("no space left")
        if config.training.method == "bp":
            raise LossNotFinite("the loss is nan")
        return {"test_accuracy": 0.5, "epochs": []}

    monkeypatch.setattr(worker, "run_cell", run)
    monkeypatch.setattr(worker, "POLL_S", 0.01)
    told = work_off(queue)
    assert (ran["bp 0"], ran["bp 1"]) == (2, 1)  # a loss that is not finite would be so again
    assert sum("failed: OSError: no space left" in line for line in told) == 2
    progress = queue.progress()
    assert (progress.complete, progress.open) == (8, 0)
    assert sorted(progress.failed.values()) == ["LossNotFinite: the loss is nan", "OSError: no space left"]
    work_off(queue)
    assert ran["bp 0"] == 2
    queue.fill(given_up=True)
    work_off(queue)
    assert (ran["bp 0"], ran["bp 1"]) == (3, 2)


def test_processes_are_told_apart_by_their_start() -> None:
    here = Worker.here().as_dict()
    assert not is_dead(here)
    assert is_dead({**here, "started": "1"})  # the number was taken by another process since
    assert is_dead({**here, "pid": 2**22 + 1})
    assert not is_dead({**here, "host": "elsewhere", "pid": 2**22 + 1})


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://u@h/d", r"must be sqlite:///PATH or postgresql://USER@HOST/DATABASE; got mysql://"),
        ("study.db", r"must be sqlite:///PATH"),
        ("postgresql://u:secret@127.0.0.1:1/d", r"postgresql://u:\*\*\*@127.0.0.1:1/d cannot be used: "),
    ],
)
def test_storages_that_cannot_be_used(url: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_storage(url)
    assert "secret" not in str(caught.value)


def test_passwords_are_not_shown() -> None:
    assert redacted("postgresql://u:secret@h/d") == "postgresql://u:***@h/d"
