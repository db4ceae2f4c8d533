"""Times of a training step on this machine: backpropagation, and DFA with the digital projection."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from optical_dfa.attachment import attach
from optical_dfa.config import RunConfig
from optical_dfa.devices import DigitalDevice
from optical_dfa.devices.base import Fields, Vectors
from optical_dfa.encode import Ternarize
from optical_dfa.estimate.size import Size
from optical_dfa.estimate.times import Times
from optical_dfa.feedback import Feedback
from optical_dfa.plan import Plan
from optical_dfa.training.models import ACTIVATIONS, build_mlp, encoder_from

_DIGITAL_OPTIONS = ("seed", "memory_budget_bytes", "backend")


@dataclass(frozen=True)
class Effort:
    """How long one size is measured in one round."""

    fewest: int
    """Repetitions, at least."""
    most: int
    seconds: float
    """No further repetition once they took that long."""


@dataclass(frozen=True)
class Measured:
    """What a size came to in one round."""

    rows: list[dict[str, float]]
    """Seconds by part of a step, as `Times` names them; one row a repetition."""
    plan: Plan
    shown: npt.NDArray[np.int8] = field(repr=False)
    """Vectors that the first step displayed, the last 256 of them at most, int8 (vectors, features)."""


Clock = Callable[[], float]
"""Seconds from some beginning."""


class _ClockedDevice(DigitalDevice):
    """The digital device, its calls timed by the clock that times the rest."""

    def __init__(self, clock: Clock, **config: Any) -> None:
        super().__init__(**config)
        self._clock = clock
        self.spent = 0.0
        """Seconds in `project`."""

    def project(self, vectors: Vectors) -> Fields:
        start = self._clock()
        fields = super().project(vectors)
        self.spent += self._clock() - start
        return fields


def measure(
    config: RunConfig, size: Size, effort: Effort, clock: Clock, batch: tuple[Tensor, Tensor] | None = None
) -> Measured:
    """Time steps of a net of that size with the configuration's activation, encoder, optimiser and seeds.

    The encoder is that of the configuration; where it sends the real error, the default one, because what is compared
    is what an optical device can display.

    Args:
        config: the run.
        size: of net and batch.
        effort: how long.
        clock: by which.
        batch: images float32 (batch, features) and labels int64 (batch,) of that size; None: random ones.
    """
    training = config.training
    net = build_mlp(
        config.model.model_copy(update={"hidden": size.hidden}), size.n_features, size.n_classes, training.seed
    )
    images, labels = batch or _random_batch(size, training.seed)
    device = _ClockedDevice(clock, **digital_options(config), n_inputs=size.n_classes, n_outputs=size.n_outputs)
    feedback = attach(
        net,
        after=ACTIVATIONS[config.model.activation],
        device=device,
        ternarize=encoder_from(config.feedback.ternarize) or Ternarize(),
        layout=size.layout,
    )
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[training.optimizer]
    with device, feedback:
        plan = feedback.plan(images)
        step = _Step(net, feedback, kind(net.parameters(), lr=training.learning_rate), device, clock, (images, labels))
        step.dfa()
        shown = np.array(feedback.sample)
        step.bp()  # once each to warm up: compilation, caches, the state of the optimiser
        rows: list[dict[str, float]] = []
        start = time.perf_counter()
        while len(rows) < effort.fewest or (len(rows) < effort.most and time.perf_counter() - start < effort.seconds):
            first, second = (step.bp, step.dfa) if len(rows) % 2 else (step.dfa, step.bp)
            rows.append({**first(), **second()})
    return Measured(rows, plan, shown)


def medians(rows: Sequence[Mapping[str, float]]) -> Times:
    """Median of each part over all repetitions."""
    return Times(len(rows), **{name: statistics.median(row[name] for row in rows) for name in rows[0]})


class _Step:
    """One training step in either mode, taken apart by the clock."""

    def __init__(
        self,
        net: nn.Module,
        feedback: Feedback,
        optimizer: torch.optim.Optimizer,
        device: _ClockedDevice,
        clock: Clock,
        batch: tuple[Tensor, Tensor],
    ) -> None:
        self._net, self._feedback, self._optimizer, self._device = net, feedback, optimizer, device
        self._clock = clock
        self._images, self._labels = batch

    def bp(self) -> dict[str, float]:
        """Seconds of the parts of a step of backpropagation."""
        self._feedback.mode = "bp"
        self._optimizer.zero_grad()
        forward, loss = self._timed(self._loss)
        backward, _ = self._timed(loss.backward)
        optimizer, _ = self._timed(self._optimizer.step)
        return {"forward": forward, "bp_backward": backward, "optimizer": optimizer}

    def dfa(self) -> dict[str, float]:
        """Seconds of the parts of a step of DFA."""
        self._feedback.mode = "dfa"
        self._optimizer.zero_grad()
        forward, loss = self._timed(self._loss)
        before = self._device.spent
        backward, _ = self._timed(loss.backward)
        projection = self._device.spent - before
        self._optimizer.step()
        return {"dfa_forward": forward, "dfa_backward": backward - projection, "projection": projection}

    def _loss(self) -> Tensor:
        return nn.functional.cross_entropy(self._net(self._images), self._labels)

    def _timed(self, call: Callable[[], Any]) -> tuple[float, Any]:
        start = self._clock()
        result = call()
        return self._clock() - start, result


def _random_batch(size: Size, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size.batch, size.n_features, generator=generator)
    return images, torch.randint(size.n_classes, (size.batch,), generator=generator)


def digital_options(config: RunConfig) -> dict[str, Any]:
    """Options of the digital device: the configured device's matrix, and the way to compute it."""
    device = config.device
    options = _DIGITAL_OPTIONS if device["name"] in ("digital", "emulator") else ()
    return {name: device[name] for name in options if name in device}
