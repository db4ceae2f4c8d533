"""Micro-batches whose errors are on their way through the device while the next forward runs.

In a deferred forward the Tap is cut off from the net: a backward pass of the loss ends there, and its errors go to the
device's line. *Settling* a micro-batch is the rest of its backward pass, from outputs and tokens together, once the
projection is there: the same nodes in the same order as if it had never been cut, so the same sums to the bit.
"""

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from optical_dfa.calls import no_open_calls
from optical_dfa.errors import FeedbackError
from optical_dfa.gradient_watch import GradientWatch
from optical_dfa.projection import Projector, Shown
from optical_dfa.sharing import Sharing
from optical_dfa.tap import DeferredTap, joined
from optical_dfa.tokens import Token
from optical_dfa.watch import TapWatch, apply, in_backward, watching
from optical_dfa.wiring import is_sharded


class Cut(NamedTuple):
    """What lies below a Tap that was cut off."""

    outputs: Sequence[Tensor]
    tensors: Sequence[Tensor]
    """Of the tokens."""
    scale: float
    """What the gradients of the tokens are multiplied by."""
    tokens: Sequence[Token]
    sharing: Sharing


class Errand(NamedTuple):
    """The errors of one Tap on their way."""

    cut: Cut
    errors: Sequence[Tensor]
    positions: Sequence[int]
    """Samples and positions of the errors."""
    shown: Shown
    number: int
    """Of the projector's calls."""
    answer: Future[Any]

    def gradients(self, fields: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Tensors that a backward pass starts from, and their gradients."""
        feedback = self.cut.sharing.of(fields, self.positions)
        pairs = zip((*self.cut.outputs, *self.cut.tensors), (*self.errors, *feedback), strict=True)
        return [(root, gradient) for root, gradient in pairs if root.requires_grad]


@dataclass(frozen=True)
class MicroBatch:
    """One backward pass of a loss, which may have come through several Taps."""

    task: int
    """What autograd calls this pass."""
    keeps_graph: bool
    """Whether it was asked to retain the graph."""
    autocast: torch.autocast
    """As it was for this pass: it decides what the functions of a backward pass compute with."""
    errands: list[Errand] = field(default_factory=list)


class Deferral:
    """The line of micro-batches of one net. A context manager, which settles at its end; an exception drops the line.

    Args:
        net: the attached net.
        projector: encodes its errors.
        depth: micro-batches under way at a time, 2 or more.

    Raises:
        ValueError: a depth below 2.
        FeedbackError: a sharded net.
    """

    def __init__(self, net: nn.Module, projector: Projector, depth: int) -> None:
        if not (isinstance(depth, int) and depth >= 2):
            raise ValueError(
                f"depth must be a number of micro-batches, 2 or more (one that is shown and one that is computed); "
                f"got {depth!r}"
            )
        if any(map(is_sharded, net.modules())):
            raise FeedbackError(
                "deferred() cannot be used with fully_shard, which fetches parameters in the backward pass of the loss "
                "and not in one that comes later: leave it out, or use DDP with no_sync()"
            )
        self._projector, self._depth = projector, depth
        self._thread = threading.get_ident()
        self._line: deque[MicroBatch] = deque()
        self._arrived = self._settled = 0
        self._settling = self._over = False
        self._gradients = GradientWatch(net)
        self._parameters = frozenset(map(id, net.parameters()))

    def __enter__(self) -> Self:
        self._step_hook = register_optimizer_step_pre_hook(self._refuse_step)
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: TracebackType | None) -> None:
        try:
            if error is None:
                self.settle()
            elif self._line:
                self._drop(error)
        finally:
            self._over = True
            self._step_hook.remove()

    @property
    def waiting(self) -> int:
        """Micro-batches that wait for their projection."""
        return len(self._line)

    # ---- forward

    def admit(self) -> None:
        """Let a forward begin: settle so many that no more than `depth` are under way.

        Raises:
            FeedbackError: it cannot be deferred.
        """
        if not watching():
            raise FeedbackError(
                "deferred() needs a forward that is neither compiled as a whole nor part of torch.func: compile the "
                "blocks of the net instead, or leave deferred() out"
            )
        if threading.get_ident() != self._thread:
            raise FeedbackError("deferred() was entered in another thread than this forward: enter it in this one")
        ddp = DistributedDataParallel._active_ddp_module
        if ddp is not None and ddp.require_backward_grad_sync:
            raise FeedbackError(
                "deferred() under DistributedDataParallel needs no_sync(): gradients that come later would not be "
                "averaged. Defer all micro-batches of a step but the last inside no_sync(), and run the last one "
                "outside of both"
            )
        if not in_backward():  # else checkpointing recomputes this forward
            self.settle(leave=self._depth - 1)

    def tap(self, below: Cut, watch: TapWatch | None) -> tuple[Tensor, ...]:
        """Outputs → outputs whose errors come here."""
        arrive = partial(self._arrive, [below])
        cut = (output.detach().requires_grad_() for output in below.outputs)
        tapped: tuple[Tensor, ...] = apply(True, DeferredTap, arrive, watch, *cut)
        return tapped

    # ---- backward

    def _arrive(self, below: list[Cut], errors: Sequence[Tensor]) -> None:
        if self._over:
            raise FeedbackError("the forward ran inside deferred(), its backward pass did not: run both inside")
        if self._settling:
            raise FeedbackError(
                "what the net gave inside deferred() went into the net again, so that its error was not complete when "
                "it was projected: leave deferred() out"
            )
        if torch.is_grad_enabled():
            raise FeedbackError("deferred() gives no second derivatives: leave out create_graph=True, or deferred()")
        if not below:
            raise FeedbackError(
                "a second backward pass came through a forward whose graph is gone: give the first one "
                "retain_graph=True"
            )
        cut = below[0]
        if not torch._C._autograd._get_current_graph_task_keep_graph():
            below.clear()  # a loss that is kept, for a log, must not keep the net's tensors
        rows = joined(errors)
        shown = self._projector.encode(rows.reshape(-1, rows.shape[-1]), cut.sharing.n_outputs, cut.scale)
        number = self._projector.calls
        answer = self._projector.submit(shown, after=self._line[-1].errands[-1].answer if self._line else None)
        self._running(rows.device.type).errands.append(Errand(cut, errors, rows.shape[:-1], shown, number, answer))

    def _running(self, kind: str) -> MicroBatch:
        """The micro-batch of the backward pass that is running, on this kind of device."""
        task = torch._C._current_graph_task_id()
        if not self._line:
            self._gradients.start()
        if not self._line or self._line[-1].task != task:
            keeps_graph = torch._C._autograd._get_current_graph_task_keep_graph()
            self._line.append(MicroBatch(task, keeps_graph, _autocast(kind)))
            self._arrived += 1
        return self._line[-1]

    # ---- settling

    def settle(self, leave: int = 0) -> None:
        """Settle the oldest micro-batches until `leave` remain."""
        if len(self._line) <= leave:
            return
        if in_backward():
            raise FeedbackError("settle() was called inside a backward pass: call it behind")
        try:
            while len(self._line) > leave:
                self._settle_oldest()
        except BaseException as error:
            self._drop(error)
            raise

    def _settle_oldest(self) -> None:
        answers = [errand.answer.result() for errand in self._line[0].errands]
        batch = self._line.popleft()
        for token in (token for errand in batch.errands for token in errand.cut.tokens):
            token.check(all_of_it=True)
        pairs = [
            pair
            for errand, answer in zip(batch.errands, answers, strict=True)
            for pair in errand.gradients(self._projector.restore(errand.shown, answer))
        ]
        roots, gradients = zip(*pairs, strict=True)
        self._settling = True
        try:
            with self._gradients.ours(), no_open_calls(), batch.autocast:
                torch.autograd.backward(roots, gradients, retain_graph=batch.keeps_graph)
        finally:
            self._settling = False
        self._settled += 1

    def _drop(self, error: BaseException) -> None:
        """Let go of all that waits because of `error`.

        What was submitted is displayed first: an undeferred run would have, so the device stands where that would have
        left it.
        """
        line, self._line = self._line, deque()
        for errand in (errand for batch in line for errand in batch.errands):
            failed = errand.answer.exception()
            if failed is not None:
                self._projector.calls = errand.number
                if failed is not error:
                    error.add_note(f"and the device failed: {failed}")
                break
            self._projector.keep(errand.shown)
        error.add_note(
            f"of {self._arrived} micro-batches inside deferred() the gradients of {self._settled} are complete in "
            f".grad; the others were dropped: zero the gradients before the step is tried again"
        )

    def _refuse_step(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        if self._line and any(
            id(one) in self._parameters for group in optimizer.param_groups for one in group["params"]
        ):
            raise FeedbackError(
                f"{type(optimizer).__name__}.step() while {len(self._line)} micro-batches wait for their projection, "
                "whose gradients would be missing: step behind the deferred() block, or call settle() first"
            )


def _autocast(kind: str) -> torch.autocast:
    """Autocast as it is now on this kind of device, to be so again."""
    enabled = torch.is_autocast_enabled(kind)
    return torch.autocast(kind, torch.get_autocast_dtype(kind), enabled, torch.is_autocast_cache_enabled())
