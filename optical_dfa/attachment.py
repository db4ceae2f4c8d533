"""`attach`: Direct Feedback Alignment for a net that is otherwise left as it is."""

import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from torch import nn

from optical_dfa.devices import ProjectionDevice, check_device_config
from optical_dfa.encode import Ternarize
from optical_dfa.errors import AttachError
from optical_dfa.feedback import Feedback, is_point
from optical_dfa.projection import NonFinite
from optical_dfa.tap import Layout


def attach(
    net: nn.Module,
    *,
    after: type[nn.Module] | tuple[type[nn.Module], ...] | Sequence[str],
    device: str | Mapping[str, Any] | ProjectionDevice = "emulator",
    ternarize: Ternarize | None = Ternarize(),  # noqa: B008  # frozen
    layout: Layout = "shared",
    error_at: str | None = None,
    nonfinite: NonFinite = "raise",
) -> Feedback:
    """Train a net by Direct Feedback Alignment: its blocks get the projected error of the output instead of gradients.

    Write the training loop as always. Attach before wrapping (compile, DDP, FSDP).

    Args:
        net: any module whose forward returns one tensor (else: `error_at`). What lies above the last feedback point
            gets its exact gradient; each block between two points is driven by the feedback at its end.
        after: where blocks end: a module class, or a tuple of them, for every such module of the net; or module names.
            A point's features are its last dimension (dimension 1 of 4- and 5-dimensional tensors).
        device: name of a device or a mapping of `name` and options (then it is sized to the net at the first backward
            or by `Feedback.plan`, opened, and closed by `Feedback.close`); or an open device of your own.
        ternarize: encoder of the error; None sends the real error, float32, to a device that accepts it.
        layout: `shared`: every point reads the same outputs of the device, as in the papers; `independent`: its own.
            The scale of the feedback is 1/√(features of the point).
        error_at: name of the module whose output carries the error; None: the net's output.
        nonfinite: `raise` at NaN or infinity in the error; or `nan`: do not display the sample, give it NaN feedback so
            that a GradScaler skips the step, and count it.

    Returns:
        The `Feedback`: keep it, and `close` it.

    Raises:
        AttachError: the net cannot be attached as asked.
        optical_dfa.devices.DeviceError: unknown device or options.
    """
    if layout not in get_args(Layout):
        raise AttachError(f"layout must be one of {', '.join(get_args(Layout))}; got {layout!r}")
    if nonfinite not in get_args(NonFinite):
        raise AttachError(f"nonfinite must be one of {', '.join(get_args(NonFinite))}; got {nonfinite!r}")
    _refuse_wrapped(net)
    modules = dict(net.named_modules())
    points = _find_points(modules, after)
    if error_at is not None and error_at not in modules:
        raise AttachError(f"error_at={error_at!r} is not a module of the net; its modules: {_some(modules)}")
    if error_at in points:
        raise AttachError(f"{error_at!r} cannot both carry the error and be a feedback point: leave it out of after=")
    spec = _check_device(device, ternarize)
    _reset_compiler()
    return Feedback(net, points, modules[error_at or ""], spec, ternarize, layout, nonfinite)


def _find_points(
    modules: Mapping[str, nn.Module], after: type[nn.Module] | tuple[type[nn.Module], ...] | Sequence[str]
) -> dict[str, nn.Module]:
    if isinstance(after, str):
        raise AttachError(
            f"after={after!r} must be a list of names, a module class or a tuple of them: write [{after!r}]"
        )
    if not isinstance(after, type | Iterable):
        raise AttachError(f"after={after!r} must be a list of names, a module class or a tuple of them")
    wanted = (after,) if isinstance(after, type) else tuple(after)
    if wanted and all(isinstance(kind, type) for kind in wanted):
        points = {name: module for name, module in modules.items() if name and isinstance(module, wanted)}  # type: ignore[arg-type]
        if not points:
            raise AttachError(f"after={after!r}: the net has no such module; its modules: {_some(modules)}")
    else:
        unknown = [name for name in wanted if name not in modules or not name]
        if unknown or not wanted:
            raise AttachError(f"after={list(wanted)!r}: no modules {unknown}; the net's modules: {_some(modules)}")
        points = {name: module for name, module in modules.items() if name in wanted}
    for name, module in points.items():
        if is_point(module):
            raise AttachError(f"module {name!r} has feedback already: close() the other feedback first")
    return points


def _check_device(
    device: str | Mapping[str, Any] | ProjectionDevice, ternarize: Ternarize | None
) -> ProjectionDevice | Mapping[str, Any]:
    spec = {"name": device} if isinstance(device, str) else device
    if isinstance(spec, ProjectionDevice):
        info = spec.info
    elif isinstance(spec, Mapping) and isinstance(spec.get("name"), str):
        info = check_device_config(**spec)
    else:
        raise AttachError(f"device={device!r} must be a name, an open device, or a mapping with a 'name'")
    if not info.linear:
        raise AttachError(f"device {info.name!r} is not linear: feedback needs one that is")
    if ternarize is None and not info.accepts_real:
        raise AttachError(f"device {info.name!r} takes ternary vectors only: give ternarize=Ternarize()")
    return spec


def _refuse_wrapped(net: nn.Module) -> None:
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    if isinstance(net, wrappers) or hasattr(net, "_orig_mod") or hasattr(net, "_fsdp_wrapped_module"):
        raise AttachError(f"{type(net).__name__} wraps the net: attach to the net itself first, and wrap it afterwards")


def _reset_compiler() -> None:
    """A net compiled before it was attached would go on without feedback (measured): forget compiled code."""
    dynamo = sys.modules.get("torch._dynamo")  # importing it takes a second, and nothing is compiled before it is
    if dynamo and dynamo.convert_frame.output_codes.seen:  # the public counters of frames miss fullgraph=True
        warnings.warn("attach resets torch.compile: code compiled so far knows nothing of the feedback", stacklevel=3)
        dynamo.reset()


def _some(modules: Mapping[str, nn.Module]) -> str:
    names = [name for name in modules if name]
    return ", ".join(map(repr, names[:20])) + (" …" if len(names) > 20 else "")
