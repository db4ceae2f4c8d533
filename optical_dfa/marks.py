"""Marks in a forward of one's own: where a block ends, and which tensor carries the error."""

from typing import Any, Protocol, overload
from weakref import WeakSet

import torch
from torch import Tensor

from optical_dfa.calls import open_calls, recompute, recomputing
from optical_dfa.errors import FeedbackError


class Marking(Protocol):
    """The wiring of a net whose forward marks its points."""

    def feeds(self, parameter: Tensor) -> bool:
        """Whether the parameter belongs to the net, and the net gets feedback now."""


marking: WeakSet[Any] = WeakSet()
"""Every live `Marking`."""


def feedback_point(h: Tensor, name: str | None = None) -> Tensor:
    """Mark the end of a block in a forward of one's own.

    Write `h = feedback_point(self.block(h))`. It is a point of the innermost attached net that is running, if that was
    attached without `after`. Everywhere else it returns `h` itself: outside an attached net, in mode `bp`, while
    paused, without gradients. May be compiled.

    Args:
        h: what the block gives; features last, or in dimension 1 of 4 or 5.
        name: name of the point, for plans, audits and errors; None: `point 1`, `point 2` … in the order of the forward.
            A name that comes back in a loop is one point that runs several times.

    Returns:
        h for the next block, cut off from the block's graph.
    """
    if not isinstance(h, Tensor):
        raise FeedbackError(f"feedback_point(h) takes a tensor; got a {type(h).__name__}: mark the tensor inside it")
    stack = open_calls()
    if not stack:
        return _recomputed(h, name)
    call = stack[-1]
    if call is None or call.owner.points is not None:
        return h
    return call.point(f"point {len(call.ran) + 1}" if name is None else name, h)


def _recomputed(h: Tensor, name: str | None) -> Tensor:
    """A mark outside any call: inert, unless checkpointing recomputes it for a net that gets feedback.

    The call is long over, and a mark knows of no module. The node that waits for the recomputed tensors does: what it
    leads down to, first of all, is a parameter of that net.
    """
    if not marking or not recomputing():
        return h
    leaf = first_leaf(torch._C._current_autograd_node())
    if leaf is None or not any(one.feeds(leaf) for one in marking):
        return h
    return recompute("marked by feedback_point" if name is None else name, h)


def first_leaf(node: Any) -> Tensor | None:
    """A leaf below that node of the graph; None if there is none."""
    seen, stack = set(), [node]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaf: Tensor = node.variable
            return leaf
        stack.extend(next_node for next_node, _ in node.next_functions)
    return None


@overload
def feedback_tap(output: Tensor) -> Tensor: ...
@overload
def feedback_tap(output: Tensor, *more: Tensor) -> tuple[Tensor, ...]: ...
def feedback_tap(output: Tensor, *more: Tensor) -> Tensor | tuple[Tensor, ...]:
    """Mark the tensor that carries the error in a forward of one's own.

    Write `logits = feedback_tap(self.head(h))` and go on with what it returns: the loss must be computed from that. The
    points so far get the error of this tensor; a
    forward may mark several, each for the points since the one before. It takes the place of the net's output, unless
    `attach` was told `error_at` or `output`. Everywhere else it returns what it is given. May be compiled.

    Args:
        output: the tensor.
        more: further tensors; their errors are joined along the features into one vector.
    """
    outputs = (output, *more)
    for one in outputs:
        if not isinstance(one, Tensor):
            raise FeedbackError(f"feedback_tap(y) takes tensors; got a {type(one).__name__}: mark the tensor inside it")
    stack = open_calls()
    call = stack[-1] if stack else None
    if call is not None and call.owner.marked_error:
        outputs = tuple(call.tap(outputs))
    return outputs if more else outputs[0]
