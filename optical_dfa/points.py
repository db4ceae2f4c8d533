"""Which modules of a net are meant: by name, by glob, by class."""

from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from optical_dfa.devices.faults import nearest
from optical_dfa.errors import AttachError

After = str | type[nn.Module] | Sequence[str | type[nn.Module]]
"""A module name, a glob, a module class, or several of them."""

ACCEPTED = "a module name ('encoder.norm'), a glob ('encoder.layers.*'), a module class, or a list of them"


def find_points(net: nn.Module, after: After) -> dict[str, nn.Module]:
    """The modules that `after` means, by name, in the order of `net.named_modules()`.

    `*` of a glob stands for anything but a dot, `**` for anything, dots included. A module with several names is one
    point, under its first name.

    Raises:
        AttachError: some part of `after` means no module; the text names the nearest ones.
    """
    if isinstance(after, str | type):
        after = (after,)
    if not isinstance(after, Iterable) or not all(isinstance(one, str | type) for one in after):
        raise AttachError(f"after={after!r} must be {ACCEPTED}")
    if not after:
        raise AttachError(f"after={after!r} names nothing; it must be {ACCEPTED}. {_modules(net)}")
    names = dict(net.named_modules(remove_duplicate=False))
    wanted: set[nn.Module] = set()
    for one in after:
        found = {module for name, module in names.items() if name and _means(one, name, module)}
        if not found:
            raise AttachError(_missing(net, one))
        wanted |= found
    return {name: module for name, module in net.named_modules() if module in wanted}


def _means(one: str | type, name: str, module: nn.Module) -> bool:
    return isinstance(module, one) if isinstance(one, type) else _matches(name.split("."), one.split("."))


def _matches(name: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern or not name:
        return not name and all(part == "**" for part in pattern)
    if pattern[0] == "**":
        return _matches(name, pattern[1:]) or _matches(name[1:], pattern)
    return fnmatchcase(name[0], pattern[0]) and _matches(name[1:], pattern[1:])


def find_module(net: nn.Module, name: str, argument: str) -> nn.Module:
    """The module of that name.

    Raises:
        AttachError: there is none; the text names the nearest.
    """
    names: dict[str, nn.Module] = dict(net.named_modules(remove_duplicate=False))
    if not isinstance(name, str) or name not in names:
        raise AttachError(
            f"{argument}={name!r} is not a module of the net.{nearest(name, filter(None, names))} {_modules(net)}"
        )
    return names[name]


def _missing(net: nn.Module, one: str | type) -> str:
    if isinstance(one, type):
        kinds = Counter(type(module).__name__ for name, module in net.named_modules() if name)
        close = nearest(one.__name__, kinds)
        listed = ", ".join(f"{kind} ({count})" if count > 1 else kind for kind, count in kinds.items())
        return f"after={one.__name__}: the net has no such module.{close} Its modules are {listed}"
    names = [name for name in dict(net.named_modules(remove_duplicate=False)) if name]
    return f"after={one!r} matches no module of the net.{nearest(one, names)} {_modules(net)}"


def _modules(net: nn.Module) -> str:
    names = [name for name, _ in net.named_modules() if name]
    return f"The net's modules: {some(names)}"


def some(names: Iterable[str]) -> str:
    """The first names, for a message."""
    names = list(names)
    return ", ".join(map(repr, names[:20])) + (" …" if len(names) > 20 else "")
