"""The state of a training run: everything that a step changes, and nothing else."""

import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from optical_dfa.config import RunConfig
from optical_dfa.data import ImageTask
from optical_dfa.devices import Usage, measured_snr_db
from optical_dfa.feedback import Feedback
from optical_dfa.health import HealthSample, Monitor
from optical_dfa.run_errors import CheckpointError, LossNotFinite
from optical_dfa.training.attach import attach_configured
from optical_dfa.training.log import EpochMetrics
from optical_dfa.training.models import build_net, hidden_parameters

_OPTIMIZERS = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}

_TEST_BATCH = 2_000


@dataclass
class Totals:
    """What the running epoch has come to so far."""

    loss: float = 0.0
    """Sum over images."""
    correct: int = 0
    images: int = 0
    seconds: float = 0.0
    frames: int = 0
    device_seconds: float = 0.0
    device_joules: float = 0.0


class Run:
    """Net, optimiser, feedback and position of a run. A context manager: leaving it closes the device.

    The method `bp` trains the plain net; `dfa` attaches feedback after every activation; `shallow` freezes all but the
    last layer. Only `dfa` opens a device.

    Attributes:
        monitor: measures alignment, if the configuration says so; None else.
        epoch: finished epochs.
        step: finished steps of the running epoch.
    """

    def __init__(self, config: RunConfig, task: ImageTask) -> None:
        training = config.training
        self.config, self.task = config, task
        self.net = build_net(config.model, task, training.seed)
        if training.method == "shallow":
            for parameter in hidden_parameters(self.net):
                parameter.requires_grad_(False)
        learning = [parameter for parameter in self.net.parameters() if parameter.requires_grad]
        self.optimizer = _OPTIMIZERS[training.optimizer](learning, lr=training.learning_rate)
        self.feedback = self._attach() if training.method == "dfa" else None
        alignment = config.alignment
        self.monitor = self.feedback.alignment(alignment.every) if self.feedback and alignment else None
        self.steps_per_epoch = math.ceil(len(task.train_images) / training.batch_size)
        wanted = training.monitor_every_steps and self.feedback is not None
        self._monitor = Monitor(self.feedback.device) if wanted and self.feedback else None
        self.epoch = 0
        self.step = 0
        self.totals = Totals()
        self.history: list[EpochMetrics] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.feedback is not None:
            self.feedback.close()

    @property
    def position(self) -> str:
        """Where the run is, for people."""
        return f"epoch {self.epoch + 1}, step {self.step} of {self.steps_per_epoch}"

    @property
    def steps(self) -> int:
        """Finished steps of all epochs."""
        return self.epoch * self.steps_per_epoch + self.step

    @property
    def trained(self) -> bool:
        """All epochs are finished."""
        return self.epoch >= self.config.training.epochs

    @property
    def health(self) -> list[HealthSample]:
        """What the looks at the device found so far."""
        return [] if self._monitor is None else self._monitor.samples

    def look(self) -> HealthSample | None:
        """A look at the device, if it is time to and was not done at this step; see `Monitor`."""
        every = self.config.training.monitor_every_steps
        if self._monitor is None or not every or self.steps % every:
            return None
        here = self.epoch + 1, self.step
        if self.health and (self.health[-1].epoch, self.health[-1].step) == here:
            return None
        return self._monitor.look(*here)

    def train_step(self, batch: Tensor) -> None:
        """One update with the training images of these indices, int64 (images,).

        Raises:
            LossNotFinite: nothing was changed.
        """
        start = time.perf_counter()
        usage = Usage() if self.feedback is None else self.feedback.device.usage
        before = replace(usage)
        images, labels = self.task.train_images[batch], self.task.train_labels[batch]
        self.optimizer.zero_grad()
        with self._watched(images, labels):
            output, loss = self._forward(images, labels)
            value = loss.item()
            if not math.isfinite(value):
                raise LossNotFinite(f"the loss is {value}: lower training.learning_rate, or look at the data")
            loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.step += 1
        totals = self.totals
        totals.loss += value * len(batch)
        totals.correct += int((output.argmax(1) == labels).sum())
        totals.images += len(batch)
        totals.frames += usage.frames - before.frames
        totals.device_seconds += usage.device_seconds - before.device_seconds
        totals.device_joules += usage.device_joules - before.device_joules
        totals.seconds += time.perf_counter() - start

    def end_epoch(self) -> EpochMetrics:
        """Test the net, and turn the totals of the epoch into a row of the history."""
        totals = self.totals
        row = EpochMetrics(
            epoch=self.epoch + 1,
            train_loss=totals.loss / totals.images,
            train_accuracy=totals.correct / totals.images,
            test_accuracy=self._test_accuracy(),
            seconds=totals.seconds,
            frames=totals.frames,
            # differences of running sums: a resumed run starts from other sums and would differ in the last bits
            device_seconds=round(totals.device_seconds, 6),
            device_joules=round(totals.device_joules, 6),
        )
        self.history.append(row)
        self.totals = Totals()
        self.epoch, self.step = self.epoch + 1, 0
        return row

    def measured_snr_db(self) -> float | None:
        """Signal-to-noise ratio of the device on the errors of the first training batch, as the net now is.

        Displays that batch, so the device has moved on afterwards. None without a device, or if it does not know its
        matrix; inf if it is exact.
        """
        if self.feedback is None:
            return None
        if self.feedback.device.info.exact:
            return math.inf
        first = slice(self.config.training.batch_size)
        self.optimizer.zero_grad()
        _, loss = self._forward(self.task.train_images[first], self.task.train_labels[first])
        loss.backward()  # type: ignore[no-untyped-call]
        try:
            return measured_snr_db(self.feedback.device, self.feedback.sample)
        except ValueError:  # the matrix is not known, or no error is left to display
            return None

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on as if nothing had happened: tensors and plain values."""
        return {
            "data_sha256": self.task.sha256,
            "threads": torch.get_num_threads(),
            "epoch": self.epoch,
            "step": self.step,
            "totals": asdict(self.totals),
            "history": [asdict(row) for row in self.history],
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "feedback": None if self.feedback is None else self.feedback.state_dict(),
            "monitor": None if self._monitor is None else _as_tensors(self._monitor.state_dict()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was saved, by a run of the same configuration.

        Raises:
            CheckpointError: it was saved with other data.
            optical_dfa.devices.FingerprintMismatch: it was saved with another device.
        """
        if state["data_sha256"] != self.task.sha256:
            raise CheckpointError(
                f"the checkpoint was made with other data (SHA-256 {state['data_sha256'][:16]}…) than task "
                f"{self.task.name!r} has now ({self.task.sha256[:16]}…): resume with the files of the run"
            )
        if self.feedback is not None:
            self.feedback.load_state_dict(state["feedback"])
        if self._monitor is not None and state.get("monitor") is not None:
            self._monitor.load_state_dict(state["monitor"])
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.totals = Totals(**state["totals"])
        self.history = [EpochMetrics(**row) for row in state["history"]]

    def _attach(self) -> Feedback:
        feedback = attach_configured(self.net, self.config)
        try:
            feedback.plan(self.task.train_images[:1])  # opens the device: what is wrong with it shows before training
        except BaseException:
            feedback.close()
            raise
        return feedback

    def _watched(self, images: Tensor, labels: Tensor) -> AbstractContextManager[None]:
        if self.monitor is None:
            return nullcontext()
        self.monitor.steps = self.steps
        return self.monitor.step(lambda: self._forward(images, labels)[1])

    def _forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        output = self.net(images)
        return output, nn.functional.cross_entropy(output, labels)

    @torch.no_grad()
    def _test_accuracy(self) -> float:
        self.net.eval()
        images, labels, correct = self.task.test_images, self.task.test_labels, 0
        for first in range(0, len(images), _TEST_BATCH):
            part = slice(first, first + _TEST_BATCH)
            correct += int((self.net(images[part]).argmax(1) == labels[part]).sum())
        self.net.train()
        return correct / len(images)


def _as_tensors(state: dict[str, Any]) -> dict[str, Any]:
    """Arrays as tensors, which a checkpoint may hold."""
    first = state["first"]
    return {**state, "first": None if first is None else torch.from_numpy(first)}
