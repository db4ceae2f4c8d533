"""The cells of a study as trials in an Optuna storage: each done once, whoever works on it and whoever dies.

What changes who owns a cell happens under one lock: to enqueue what is missing, to take a cell, to take one back.
Optuna's own means do not suffice: two workers that call `enqueue_trial(skip_if_exists=True)` at once made 116 trials of
60 cells, and on SQLite two may take the same waiting trial.
"""

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from optical_dfa.study.design import Cell
from optical_dfa.study.lock import lock_of
from optical_dfa.study.models import Scalar
from optical_dfa.study.process import Worker, is_dead

LOST = "lost"
"""Failure of a cell whose worker was stopped or died: it counts for nothing."""


@dataclass(frozen=True)
class Claim:
    """A cell that this process works on."""

    cell: Cell
    trial_id: int


@dataclass
class Progress:
    """Where a study stands."""

    total: int
    complete: int = 0
    running: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """Cell → what its last attempt said, of those that are given up."""
    causes: Counter[str] = field(default_factory=Counter)

    @property
    def open(self) -> int:
        """Cells that are neither done nor given up."""
        return self.total - self.complete - len(self.failed)


class Queue:
    """The cells of one study in one storage.

    Args:
        storage: from `open_storage`.
        name: of the study; its name in the storage adds a hash of the choices, which Optuna wants to be constant.
        cells: all of them.
        attempts: how often one that fails is tried.
    """

    def __init__(self, storage: RDBStorage, name: str, cells: Sequence[Cell], attempts: int) -> None:
        self._storage = storage
        self.cells = {cell.key: cell for cell in cells}
        self._attempts = attempts
        self._distributions = _distributions(cells)
        choices = {name: str(kind) for name, kind in self._distributions.items() if _is_choice(kind)}
        digest = hashlib.sha256(json.dumps(choices, sort_keys=True).encode()).hexdigest()[:6]
        self.study_name = f"{name} {digest}"
        self._lock = lock_of(storage.engine.url, self.study_name)
        self._family = f"{name} "
        with self._lock():
            self.study = optuna.create_study(
                storage=storage, study_name=self.study_name, direction="maximize", load_if_exists=True
            )
        self._study_id = storage.get_study_id_from_name(self.study_name)

    def close(self) -> None:
        """Let go of the connections to the storage."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def fill(self, given_up: bool = False) -> None:
        """Take back the cells of dead workers, and enqueue every cell that is not there or may be tried again.

        Args:
            given_up: try those too that failed too often, once more.
        """
        with self._lock():
            fail_stale(self.study, self._storage)
            trials = self._trials()
            here = {trial.user_attrs["cell"] for trial in trials if trial.state != TrialState.FAIL}
            failures = self._failures(trials)
            known = {trial.user_attrs["cell"] for trial in trials}
            missing = [cell for key, cell in self.cells.items() if key not in here]
            elsewhere = self._elsewhere() if any(cell.key not in known for cell in missing) else {}
            for cell in missing:
                if cell.key in elsewhere:
                    self._adopt(cell, elsewhere[cell.key])
                elif given_up or failures[cell.key] < self._attempts:
                    self._add(cell, TrialState.WAITING)

    def claim(self) -> Claim | None:
        """Take a waiting cell; None if there is none."""
        with self._lock():
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                cell = self.cells.get(trial.user_attrs["cell"])
                if cell is None:  # of an earlier form of the file
                    continue
                trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, trial.number)
                # the heart beats first: Optuna never gives up a running trial that has had no beat
                self._storage.record_heartbeat(trial_id)
                self._storage.set_trial_user_attr(trial_id, "worker", Worker.here().as_dict())
                if self._storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                    return Claim(cell, trial_id)
        return None

    def beating(self, claim: Claim) -> AbstractContextManager[None]:
        """Within the block, the heartbeat of the claim is recorded."""
        return beating(self._storage, claim.trial_id)

    def finish(self, claim: Claim, result: Mapping[str, Any], value: float, timing: Mapping[str, Any]) -> bool:
        """Store a result; False if the cell was given to somebody else meanwhile, whose result is the same."""
        with _taken_away() as kept:
            self._storage.set_trial_user_attr(claim.trial_id, "timing", dict(timing))
            self._storage.set_trial_user_attr(claim.trial_id, "result", dict(result))
            self._storage.set_trial_state_values(claim.trial_id, TrialState.COMPLETE, [value])
            kept.append(True)
        return bool(kept)

    def fail(self, claim: Claim, message: str, final: bool = False) -> None:
        """Note that a cell failed; `final`: another attempt would come to the same."""
        with _taken_away():
            self._storage.set_trial_user_attr(claim.trial_id, "failure", {"message": message, "final": final})
            self._storage.set_trial_state_values(claim.trial_id, TrialState.FAIL)

    def release(self, claim: Claim) -> None:
        """Give a cell back that was not finished."""
        self.fail(claim, LOST)

    def progress(self) -> Progress:
        """Where the study stands."""
        trials = self._trials()
        progress = Progress(len(self.cells))
        progress.complete = len({trial.user_attrs["cell"] for trial in trials if trial.state == TrialState.COMPLETE})
        progress.running = sum(trial.state == TrialState.RUNNING for trial in trials)
        failures = self._failures(trials)
        alive = {trial.user_attrs["cell"] for trial in trials if trial.state != TrialState.FAIL}
        for trial in trials:
            key = trial.user_attrs["cell"]
            if trial.state == TrialState.FAIL and key not in alive and failures[key] >= self._attempts:
                progress.failed[key] = trial.user_attrs["failure"]["message"]
        return progress

    def results(self) -> dict[str, FrozenTrial]:
        """Cell → the trial that holds its result: the first complete one."""
        found: dict[str, FrozenTrial] = {}
        for trial in self._trials():
            if trial.state == TrialState.COMPLETE:
                found.setdefault(trial.user_attrs["cell"], trial)
        return found

    # ---- inside; the lock is held

    def _trials(self) -> list[FrozenTrial]:
        """Those of cells that the study has now."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if trial.user_attrs.get("cell") in self.cells]

    def _failures(self, trials: Sequence[FrozenTrial]) -> Counter[str]:
        count: Counter[str] = Counter()
        for trial in trials:
            failure = trial.user_attrs.get("failure", {"message": LOST, "final": False})
            if trial.state == TrialState.FAIL and failure["message"] != LOST:
                count[trial.user_attrs["cell"]] += self._attempts if failure["final"] else 1
        return count

    def _elsewhere(self) -> dict[str, FrozenTrial]:
        """Results under the same name with other choices of a factor, from before the file was changed."""
        names = [name for name in optuna.get_all_study_names(self._storage) if name.startswith(self._family)]
        found: dict[str, FrozenTrial] = {}
        for name in names:
            if name != self.study_name and len(name) == len(self.study_name):
                for trial in optuna.load_study(study_name=name, storage=self._storage).get_trials(deepcopy=False):
                    if trial.state == TrialState.COMPLETE and "cell" in trial.user_attrs:
                        found.setdefault(trial.user_attrs["cell"], trial)
        return found

    def _adopt(self, cell: Cell, trial: FrozenTrial) -> None:
        kept = {name: trial.user_attrs[name] for name in ("result", "timing", "worker")}
        self._add(cell, TrialState.COMPLETE, trial.value, kept)

    def _add(
        self, cell: Cell, state: TrialState, value: float | None = None, more: Mapping[str, Any] | None = None
    ) -> None:
        params = params_of(cell)
        distributions = {name: self._distributions[name] for name in params}
        attributes = {"cell": cell.key, **(more or {})}
        trial = create_trial(
            state=state, value=value, params=params, distributions=distributions, user_attrs=attributes
        )
        self.study.add_trial(trial)


@contextmanager
def beating(storage: RDBStorage, trial_id: int) -> Iterator[None]:
    """Within the block, the heartbeat of a trial is recorded."""
    stop, interval = Event(), storage.get_heartbeat_interval()

    def beat() -> None:
        while not stop.wait(interval):
            with suppress(SQLAlchemyError):  # the next beat may reach it
                storage.record_heartbeat(trial_id)
            storage.remove_session()

    thread = Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def fail_stale(study: optuna.Study, storage: RDBStorage) -> None:
    """Fail the running trials of dead workers: of this host at once, of others when their heart has stopped."""
    study_id = storage.get_study_id_from_name(study.study_name)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if "worker" in trial.user_attrs and is_dead(trial.user_attrs["worker"]):
            with _taken_away():
                number = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
                storage.set_trial_state_values(number, TrialState.FAIL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # it is, to Optuna, since 2.9
        fail_stale_trials(study)


@contextmanager
def _taken_away() -> Iterator[list[bool]]:
    """Within the block, a trial that somebody finished meanwhile is left as it is; the list is then empty."""
    kept: list[bool] = []
    try:
        yield kept
    except UpdateFinishedTrialError:
        kept.clear()


def params_of(cell: Cell) -> dict[str, Scalar]:
    """Method, factors and seed of a cell, as the parameters of its trial; nothing for what does not apply."""
    return {"method": cell.method, **cell.levels, "seed": cell.seed}


def _distributions(cells: Sequence[Cell]) -> dict[str, BaseDistribution]:
    values: dict[str, list[Scalar]] = {}
    for cell in cells:
        for name, value in params_of(cell).items():
            known = values.setdefault(name, [])
            if not any(value == other and type(value) is type(other) for other in known):
                known.append(value)
    return {name: _distribution(found) for name, found in values.items()}


def _distribution(values: Sequence[Scalar]) -> BaseDistribution:
    if all(type(value) is int for value in values):
        return IntDistribution(min(values), max(values))  # type: ignore[type-var, arg-type]
    if all(type(value) in (int, float) and abs(value) < float("inf") for value in values):  # type: ignore[arg-type]
        return FloatDistribution(min(values), max(values))  # type: ignore[type-var, arg-type]
    return CategoricalDistribution(values)


def _is_choice(kind: BaseDistribution) -> bool:
    return isinstance(kind, CategoricalDistribution)
