"""What arrives at the feedback points: hooks on their modules, for as long as one step takes."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Run(NamedTuple):
    """One run of a point in a forward."""

    point: str
    number: int
    """How many times the point ran before in this forward."""


Arrived = Callable[[Run, Tensor], None]
"""Called with a gradient that came."""


@contextmanager
def watch(
    points: Mapping[str, nn.Module], at_delta: Arrived, at_output: Arrived | None = None
) -> Iterator[dict[Run, tuple[int, ...]]]:
    """Within the block, tell what gradients come to the modules of `points`.

    Args:
        points: feedback points and their modules.
        at_delta: gets the gradient at the module's input if it is an activation (no parameters, input and output of one
            shape), else at its output.
        at_output: gets the gradient at the module's output.

    Yields:
        The runs of the points in the order of the forward, with the shapes of their outputs.
    """
    shapes: dict[Run, tuple[int, ...]] = {}
    runs: Counter[str] = Counter()
    entered: dict[str, tuple[torch.Size, Any, list[Run]]] = {}

    def enter(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        given = args[0] if args else None
        if isinstance(given, Tensor) and given.requires_grad and next(module.parameters(), None) is None:
            run: list[Run] = []
            # now, and not when the module is through: an activation may work in place
            entered[name] = (given.shape, _on_gradient(given, lambda gradient: at_delta(run[0], gradient)), run)

    def leave(name: str, output: Any) -> None:
        shape, hook, where = entered.pop(name, (None, None, []))
        if not (isinstance(output, Tensor) and torch.is_grad_enabled()):
            return
        run = Run(name, runs[name])
        runs[name] += 1
        shapes[run] = tuple(output.shape)
        where.append(run)
        if hook is not None and shape != output.shape:
            hook.remove()
            hook = None
        if output.requires_grad:
            if hook is None:
                _on_gradient(output, lambda gradient: at_delta(run, gradient))
            if at_output is not None:
                _on_gradient(output, lambda gradient: at_output(run, gradient))

    handles = []
    for name, module in points.items():
        # before the hooks that cut the net at the point: they pass on detached tensors
        handles.append(
            module.register_forward_pre_hook(lambda module, args, name=name: enter(name, module, args), prepend=True)
        )
        handles.append(module.register_forward_hook(lambda _, __, output, name=name: leave(name, output), prepend=True))
    try:
        yield shapes
    finally:
        for handle in handles:
            handle.remove()


def _on_gradient(tensor: Tensor, call: Callable[[Tensor], None]) -> Any:
    return tensor.register_hook(call)  # type: ignore[no-untyped-call]
