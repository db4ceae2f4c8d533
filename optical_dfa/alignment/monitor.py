"""The monitor: every N steps, a second backward pass of the same batch, by true backpropagation, beside the first."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from optical_dfa.alignment.capture import Run, watch
from optical_dfa.alignment.compare import Given, Signals, projection_alignment, weight_sums
from optical_dfa.alignment.formulas import Sums, joint_cosine, sample_sums
from optical_dfa.alignment.report import Alignment
from optical_dfa.alignment.undisturbed import Snapshot
from optical_dfa.errors import FeedbackError

if TYPE_CHECKING:
    from optical_dfa.feedback import Feedback

Loss = Callable[[], Tensor]


class AlignmentMonitor:
    """Measures alignment every so many steps, and leaves training as it would be without. Made by `Feedback.alignment`.

    A measurement runs the loss once more, forward and backward, in mode `bp`: no projection, the same dropout masks (of
    PyTorch's generators), norm statistics and all other buffers put back. Weights, gradients, device and random numbers
    are those of a training without it, bit for bit. True gradients are compared one by one and dropped; held are a copy
    of the buffers, the gradients at the feedback points and one projection.

    Args:
        feedback: the feedback of the net.
        every: steps from one measurement to the next; the first step is measured.
        to: called with each `Alignment`: `JsonLines`, `TensorBoard`, `print`, `list.append` …

    Attributes:
        steps: steps seen so far; set it to go on where an earlier run stopped.
        latest: the last measurement, None before the first.
    """

    def __init__(self, feedback: "Feedback", every: int, *to: Callable[[Alignment], object]) -> None:
        if not (isinstance(every, int) and every > 0):
            raise ValueError(f"every must be a number of steps, 1 or more; got {every!r}")
        self.feedback, self.every, self.to = feedback, every, to
        self.steps = 0
        self.latest: Alignment | None = None

    @contextmanager
    def step(self, loss: Loss) -> Iterator[None]:
        """One training step: forward and backward pass in the block, gradients being zero before it.

        ```
        optimizer.zero_grad()
        with monitor.step(lambda: cross_entropy(net(x), y)):
            cross_entropy(net(x), y).backward()
        optimizer.step()
        ```

        Args:
            loss: computes what the block calls `backward` on, of the same batch (the scaled loss if it is scaled); runs
                only if this step is measured.

        Raises:
            FeedbackError: gradients of an earlier backward pass are there, the block made none, or the mode is not
                `dfa`.
        """
        due = self.steps % self.every == 0
        self.steps += 1
        if not due:
            yield
            return
        self.feedback.settle()
        self._check()
        net = self.feedback._net
        before = Snapshot(net)
        points = {name: module for name, module in net.named_modules() if name in self.feedback.points}
        given = Given()
        with watch(points, given.delta) as given.shapes, self.feedback.on_projection(given.project):
            yield
            self.feedback.settle()
        if all(parameter.grad is None for parameter in net.parameters()):
            raise FeedbackError(
                "the step made no gradients: run forward and backward inside `with monitor.step(…)`, and let the "
                "optimiser step and zero them outside"
            )
        self.latest = self._measure(loss, net, points, given, before)
        for receive in self.to:
            receive(self.latest)

    def _check(self) -> None:
        if self.feedback.mode != "dfa":
            raise FeedbackError(
                f"alignment is that of feedback, and the mode is {self.feedback.mode!r}: set mode = 'dfa'"
            )
        for name, parameter in self.feedback._net.named_parameters():
            if parameter.grad is not None and parameter.grad.any():
                raise FeedbackError(
                    f"parameter {name!r} has a gradient of an earlier backward pass, which would be measured too: zero "
                    "the gradients before `with monitor.step(…)`; of accumulated batches, wrap the first only"
                )

    def _measure(
        self, loss: Loss, net: nn.Module, points: dict[str, nn.Module], given: Given, before: Snapshot
    ) -> Alignment:
        learning = {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}
        parameters: dict[str, Sums] = {}
        deltas: dict[Run, Tensor] = {}
        signals = Signals(given, self.feedback)

        def compare(name: str, parameter: Tensor, true: Tensor) -> Tensor:
            if parameter.grad is not None:
                parameters[name] = Sums.of(parameter.grad, true)
            return true.new_zeros(()).expand_as(true)  # compared: its memory is free

        def at_delta(run: Run, true: Tensor) -> None:
            if (got := given.deltas.pop(run, None)) is not None:
                deltas[run] = sample_sums(got, true)

        hooks = [
            parameter.register_hook(lambda true, name=name, parameter=parameter: compare(name, parameter, true))  # type: ignore[no-untyped-call]
            for name, parameter in learning.items()
        ]
        try:
            with (
                before.again(net),
                self.feedback.paused(),
                torch.enable_grad(),
                watch(points, at_delta, signals.compare),
            ):
                torch.autograd.grad(loss(), list(learning.values()), allow_unused=True)
        finally:
            for hook in hooks:
                hook.remove()
        weights = weight_sums(self.feedback, net, given)
        in_order = {name: parameters[name] for name in learning if name in parameters}  # they came from output to input
        layers: dict[str, Sums] = {}
        for name, sums in in_order.items():
            owner = name.rpartition(".")[0] or name
            layers[owner] = layers.get(owner, Sums()) + sums
        return Alignment(
            step=self.steps - 1,
            gradient=sum(in_order.values(), Sums()).alignment(),
            delta=joint_cosine(list(deltas.values())),
            weight=sum(weights.values(), Sums()).alignment().cosine if weights else None,
            projection=projection_alignment(given),
            points=signals.points(deltas),
            weights={name: sums.alignment().cosine for name, sums in weights.items()},
            layers={name: sums.alignment() for name, sums in layers.items()},
            parameters={name: sums.alignment() for name, sums in in_order.items()},
        )
