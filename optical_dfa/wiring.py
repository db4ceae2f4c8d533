"""The hooks of an attached net. They open and close calls, and hand them what points and outputs bring."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from optical_dfa.calls import Call, open_calls, recompute, recomputing
from optical_dfa.errors import FeedbackError, FeedbackShapeError
from optical_dfa.marks import marking
from optical_dfa.structures import Selector, described, main_tensor, map_tensors, select, swap


class Host(Protocol):
    """Whose hooks they are."""

    @property
    def feeding(self) -> bool:
        """Whether forwards with gradients are to be cut at the points."""

    def open_call(self, wiring: "Wiring") -> Call | None:
        """A call for a forward that begins; None to leave it alone."""


class Wiring:
    """Hooks of a net on its way from input to output. They hold the host, so it lives as long as they do.

    Args:
        host: decides what a call does.
        net: the attached net.
        points: modules at whose output feedback enters; None: the forward marks its points.
        error_module: module whose output carries the error; None: the net's, unless the forward marks another tensor.
        selectors: which tensors of that output.
        at_input: feedback enters at the input of the points, which must be elementwise functions.
    """

    def __init__(
        self,
        host: Host,
        net: nn.Module,
        points: Mapping[str, nn.Module] | None,
        error_module: nn.Module | None,
        selectors: Sequence[Selector],
        at_input: bool,
    ) -> None:
        self.host, self.net, self.selectors = host, net, tuple(selectors)
        self.points = None if points is None else tuple(points)
        self.marked_error = error_module is None and not selectors
        self.error_at = "" if error_module is None else _name_of(net, error_module)
        self.error_name = f"the output of {self.error_at!r} (error_at)" if error_module else "the output of the net"
        self._cuts: list[tuple[nn.Module, int]] = []
        """Modules whose output is cut, with the key of the hook that does it."""
        # first, so that a pre-hook of the user that raises finds the call open that `_close` closes
        self._handles = [net.register_forward_pre_hook(self._begin, prepend=True)]
        for name, module in (points or {}).items():
            hook = _Point(self, name)
            if at_input:
                self._handles.append(module.register_forward_pre_hook(hook.before))
                self._handles.append(module.register_forward_hook(hook.same_shape))
            else:
                self._handles.append(module.register_forward_hook(hook.after))
                self._cuts.append((module, self._handles[-1].id))
        self._handles.append((error_module or net).register_forward_hook(self._tap))
        self._handles.append(net.register_forward_hook(self._end))
        self._handles.append(net.register_forward_hook(self._close, always_call=True))
        if self.points is None:
            marking.add(self)

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._cuts.clear()
        marking.discard(self)

    def feeds(self, parameter: Tensor) -> bool:
        """See `optical_dfa.marks.Marking`."""
        return self.host.feeding and any(parameter is one for one in self.net.parameters())

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        if self.points is None and self._handles:
            marking.add(self)

    def mine(self) -> Call | None:
        """The innermost open call, if these hooks opened it."""
        stack = open_calls()
        call = stack[-1] if stack else None
        return call if call is not None and call.owner is self else None

    def _begin(self, _net: nn.Module, _args: Any) -> None:
        stack = open_calls()
        self._follow_sharding()
        stack.append(None)  # before anything can raise: `_close` takes it off in any case
        stack[-1] = self.host.open_call(self)

    def _follow_sharding(self) -> None:
        """Cut behind the hooks of `fully_shard`, which sees to it that a block's parameters are there in its backward.

        It does so by a hook on the output, and a tensor that is cut off already has none.
        """
        if torch.compiler.is_compiling():
            return
        for module, key in self._cuts:
            if is_sharded(module):
                module._forward_hooks[key] = module._forward_hooks.pop(key)

    def _tap(self, _module: nn.Module, _args: Any, output: Any) -> Any:
        call = self.mine()
        if call is None or (self.marked_error and call.tapped):
            return None
        outputs = select(output, self.selectors, self.error_name)
        tapped = call.tap(outputs)
        return None if tapped is outputs else swap(output, outputs, tapped, self.error_name)

    def _end(self, _net: nn.Module, _args: Any, output: Any) -> None:
        call = self.mine()
        if call is not None:
            call.end(output)

    def _close(self, _net: nn.Module, _args: Any, _output: Any) -> None:
        """Also if the forward or a hook raised."""
        open_calls().pop()


class _Point:
    """Hooks of one feedback point."""

    def __init__(self, wiring: Wiring, name: str) -> None:
        self.wiring, self.name = wiring, name

    def after(self, _module: nn.Module, _args: Any, output: Any) -> Any:
        """Feedback at the output. Of a tuple, list, mapping or dataclass the first floating tensor gets it."""
        call = self.wiring.mine()
        if call is None and not self._recomputed():
            return None
        if isinstance(output, Tensor):
            return self._pass(call, output)
        main = main_tensor(output)
        if main is None:
            raise FeedbackError(
                f"feedback point {self.name!r} gave {described(output)} without a floating tensor; feedback needs one: "
                "choose another module"
            )
        passed = self._pass(call, main)
        if passed is main:
            return None
        return map_tensors(
            output, lambda tensor: passed if tensor is main else tensor.detach() if tensor.requires_grad else tensor
        )

    def before(self, _module: nn.Module, args: Any) -> Any:
        """Feedback at the input."""
        call = self.wiring.mine()
        if call is None and not self._recomputed():
            return None
        if len(args) != 1 or not isinstance(args[0], Tensor):
            raise FeedbackError(
                f"feedback point {self.name!r} takes {len(args)} positional inputs; derivative=False leaves out the "
                "derivative of an elementwise function of one tensor: choose other points, or derivative=True"
            )
        return (self._pass(call, args[0]),)

    def same_shape(self, _module: nn.Module, args: Any, output: Any) -> None:
        """Refuse what is not elementwise, as far as shapes tell."""
        if self.wiring.mine() is None:
            return
        if not isinstance(output, Tensor) or output.shape != args[0].shape:
            gave = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else described(output)
            raise FeedbackShapeError(
                f"feedback point {self.name!r} made {gave} of shape {tuple(args[0].shape)}; derivative=False leaves "
                "out the derivative of an elementwise function, whose output has the shape of its input: choose other "
                "points, or derivative=True"
            )

    def _recomputed(self) -> bool:
        return self.wiring.host.feeding and recomputing()

    def _pass(self, call: Call | None, h: Tensor) -> Tensor:
        return recompute(self.name, h) if call is None else call.point(self.name, h)


def _name_of(net: nn.Module, module: nn.Module) -> str:
    names: dict[nn.Module, str] = {other: name for name, other in net.named_modules()}
    return names[module]


def wirings_of(net: nn.Module) -> list[Wiring]:
    """The wirings that `net` is the root of."""
    owners = [getattr(hook, "__self__", None) for hook in net._forward_pre_hooks.values()]
    return [owner for owner in owners if isinstance(owner, Wiring)]


def is_sharded(module: nn.Module) -> bool:
    """Whether `fully_shard` was applied to the module."""
    return _is_sharded(type(module))  # type: ignore[arg-type]


@lru_cache(512)
def _is_sharded(kind: type) -> bool:
    return any(base.__name__ == "FSDPModule" for base in kind.__mro__)


def is_point(module: nn.Module) -> bool:
    """Whether the module is a feedback point already."""
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    return any(isinstance(getattr(hook, "__self__", None), _Point) for hook in hooks)
