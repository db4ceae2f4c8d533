"""A training forward: each point becomes a token and a detached tensor, the output passes the Tap."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from optical_dfa.audit_graph import Reached, read_above, read_below
from optical_dfa.calls import Call
from optical_dfa.deferral import Cut, Deferral
from optical_dfa.errors import FeedbackError
from optical_dfa.sharing import Layout, sharing_of
from optical_dfa.structures import map_tensors
from optical_dfa.tap import Tap
from optical_dfa.tokens import Token, scaled, token_of
from optical_dfa.watch import TapWatch, apply, watching


@dataclass
class TrainingCall(Call):
    """One running forward that gets feedback, or that is cut at its points (mode `shallow`)."""

    handle: int = 0
    layout: Layout = "shared"
    scale: float | None = None
    feeds: bool = True
    """Whether there is feedback at all; not in mode `shallow`."""
    reads_graph: bool = False
    """Whether to find out what gradients reach."""
    watch: TapWatch | None = None
    """None: the graph cannot be watched."""
    deferral: Deferral | None = None
    """Gets the errors; None: they are projected at once."""
    on_end: Callable[["TrainingCall"], None] | None = None
    """Gets the call when the forward is over and nothing is wrong with it."""
    tokens: list[Token] = field(default_factory=list)
    """Those that wait for the next Tap."""
    last: Tensor | None = None
    """What the last point passed on."""
    tapped_output: "ref[Tensor] | None" = None
    """What the last Tap gave, the first of it."""
    reached: Reached | None = None
    """What gradients reach from the Taps and their points."""

    def cut(self, name: str, h: Tensor) -> Tensor:
        """Keep the token of h, and give the detached h."""
        if not torch.is_grad_enabled():
            raise FeedbackError(
                f"feedback point {name!r} ran without gradients inside a forward with gradients, so it would get none: "
                "call torch.utils.checkpoint.checkpoint with use_reentrant=False; leave the point out of after= if its "
                "block is meant to be frozen"
            )
        self.last = h.detach()
        if self.feeds:
            self.tokens.append(token_of(name, h, self.last))
        return self.last

    def join(self, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Outputs and waiting tokens → outputs."""
        tokens, self.tokens = self.tokens, []
        if not tokens:
            return outputs
        if any(output is self.last for output in outputs):
            raise FeedbackError(
                f"feedback point {tokens[-1].name!r} gives the very output that carries the error, so no layer would "
                "get its exact gradient: leave it out of after="
            )
        watched = watching()
        names, tensors, *_ = zip(*tokens, strict=True)
        errors, shapes = tuple([one.shape for one in outputs]), tuple([one.shape for one in tensors])
        read = sharing_of(errors, shapes, names, self.layout, watched)
        learn = [one.requires_grad for one in tensors]
        if not all(learn):
            self._require_frozen([name for name, learns in zip(names, learn, strict=True) if not learns])
        if not any(learn):  # nothing to display
            return outputs
        watch = self.watch if watched else None
        if watch is not None:
            watch.tapped = True
            for output in outputs:
                watch.expect(output)
            if self.reads_graph:
                found = read_below(self.owner.net, outputs, zip(names, tensors, strict=True))
                self.reached = found if self.reached is None else self.reached.joined(found)
        scale = read.scale if self.scale is None else self.scale
        if scale is None:
            tensors, scale = tuple(scaled(tensors, read.widths)), 1.0
        tapped: tuple[Tensor, ...]
        if self.deferral is not None:
            tapped = self.deferral.tap(Cut(outputs, tensors, scale, tokens, read), watch)
        else:
            kept = tokens if watched else ()
            tapped = apply(watched, Tap, self.handle, read, scale, kept, watch, len(outputs), *outputs, *tensors)
        if watch is not None:
            self.tapped_output = ref(tapped[0])
        return tapped

    def _require_frozen(self, names: Sequence[str]) -> None:
        """Nothing below these points gets a gradient: legitimate if nothing in them learns."""
        if self.owner.points is None:
            return
        for name in names:
            if any(parameter.requires_grad for parameter in self.owner.net.get_submodule(name).parameters()):
                raise FeedbackError(
                    f"feedback point {name!r} holds parameters that learn, but gave a tensor without a gradient, so "
                    "they would get none: look for detach(), .data or no_grad in its forward, or freeze it"
                )

    def end(self, output: Any) -> None:
        """Raise what is wrong with the forward; watch the other tensors that it returns."""
        super().end(output)
        if self.reached is not None:
            self.reached = read_above(self.owner.net, self.reached, output)
        if self.on_end is not None:
            self.on_end(self)
        watch = self.watch
        tapped = None if self.tapped_output is None else self.tapped_output()
        if watch is not None and (tapped is None or output is not tapped):  # the Tap says so itself

            def expect(tensor: Tensor) -> Tensor:
                watch.expect(tensor)
                return tensor

            map_tensors(output, expect)
