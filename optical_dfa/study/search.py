"""The search for the settings of each method: an Optuna study for each, on images held out of the training set."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from optical_dfa.config import RunConfig
from optical_dfa.data import ImageTask
from optical_dfa.run_errors import LossNotFinite
from optical_dfa.study.cell import run_cell, task_of
from optical_dfa.study.code_version import code_version
from optical_dfa.study.design import merge, with_seed
from optical_dfa.study.file import Study
from optical_dfa.study.lock import lock_of
from optical_dfa.study.models import Range, StudyConfig, TuneConfig
from optical_dfa.study.overrides import with_overrides
from optical_dfa.study.process import Worker
from optical_dfa.study.queue import beating, fail_stale

SPLIT_SEED = 0
"""Of the images that are held out: the same ones in every trial."""


class Search:
    """The search for one method. Any number of workers take trials of it.

    Args:
        storage: from `open_storage`.
        study: whose method it is.
        method: its name.
    """

    def __init__(self, storage: RDBStorage, study: Study, method: str) -> None:
        tune = study.config.tune
        assert tune is not None
        self._storage, self._study, self._method, self._tune = storage, study.config, method, tune
        self._distributions = {key: _distribution(space) for key, space in tune.space.items()}
        identity = [self._values({}), tune.model_dump(exclude={"trials", "methods"}), code_version()]
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:6]
        self.study_name = f"{study.name} tune {method} {digest}"
        self._lock = lock_of(storage.engine.url, self.study_name)
        with self._lock():
            self.optuna_study = optuna.create_study(
                storage=storage, study_name=self.study_name, direction="maximize", load_if_exists=True
            )

    def take(self) -> Trial | None:
        """The next trial; None if there are enough.

        What it tries depends on the seed and on the finished trials alone: a search by one worker that is killed and
        taken up again ends as an undisturbed one.
        """
        with self._lock():
            fail_stale(self.optuna_study, self._storage)
            trials = self.optuna_study.get_trials(
                deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
            )
            if len(trials) >= self._tune.trials:
                return None
            self.optuna_study.sampler = _sampler(self._tune, len(trials))
            trial = self.optuna_study.ask(self._distributions)
            self._storage.record_heartbeat(self._id(trial))
            trial.set_user_attr("worker", Worker.here().as_dict())
            return trial

    def finished(self) -> list[FrozenTrial]:
        """Trials that came to a value, or diverged."""
        return self.optuna_study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))

    def unfinished(self) -> int:
        """Trials that somebody works on."""
        return len(self.optuna_study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    def evaluate(self, trial: Trial, after_epoch: Callable[[], None]) -> None:
        """Run a trial: its value is the mean accuracy over the seeds, held-out images. One that diverges is pruned."""
        config = RunConfig.model_validate(self._values(trial.params))
        task = held_out(task_of(config.task.name, config.task.folder), self._tune.validation_fraction)
        try:
            with beating(self._storage, self._id(trial)):
                values = [
                    run_cell(with_seed(config, seed), task, after_epoch)["test_accuracy"] for seed in self._tune.seeds
                ]
        except LossNotFinite as error:
            trial.set_user_attr("pruned", str(error))
            self.optuna_study.tell(trial, state=TrialState.PRUNED)
            return
        except BaseException:
            self.optuna_study.tell(trial, state=TrialState.FAIL)
            raise
        trial.set_user_attr("accuracies", values)
        self.optuna_study.tell(trial, float(np.mean(values)))

    def best(self) -> tuple[dict[str, Any], float] | None:
        """Settings of the best trial and their accuracy on the held-out images; None before the first."""
        trials = self.optuna_study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not trials:
            return None
        best = max(trials, key=lambda trial: (trial.value, -trial.number))
        assert best.value is not None
        return dict(best.params), best.value

    def _values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return with_overrides(merge(self._study, {}, self._method, self._study.base_levels()), params)

    def _id(self, trial: Trial) -> int:
        study_id = self._storage.get_study_id_from_name(self.study_name)
        return self._storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)


def methods_of(study: StudyConfig) -> list[str]:
    """Methods that are searched."""
    assert study.tune is not None
    return list(study.tune.methods or study.methods)


def held_out(task: ImageTask, fraction: float) -> ImageTask:
    """A task whose test images are a fixed random part of the training images of another; the rest trains."""
    order = np.random.default_rng(SPLIT_SEED).permutation(len(task.train_images))
    n_held = max(1, round(fraction * len(order)))
    held, rest = np.sort(order[:n_held]), np.sort(order[n_held:])
    return replace(
        task,
        train_images=task.train_images[rest],
        train_labels=task.train_labels[rest],
        test_images=task.train_images[held],
        test_labels=task.train_labels[held],
    )


def _distribution(space: Any) -> BaseDistribution:
    if not isinstance(space, Range):
        return CategoricalDistribution(space)
    if isinstance(space.low, int) and isinstance(space.high, int):
        return IntDistribution(space.low, space.high, log=space.log)
    return FloatDistribution(space.low, space.high, log=space.log)


def _sampler(tune: TuneConfig, n_trials: int) -> BaseSampler:
    seed = (tune.seed + n_trials) % 2**31
    if tune.sampler == "random":
        return RandomSampler(seed)
    if tune.sampler == "cmaes":
        return CmaEsSampler(seed=seed)
    return TPESampler(seed=seed, constant_liar=True)  # others are under way
