"""`attach`: Direct Feedback Alignment for a net that is otherwise left as it is."""

import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from torch import nn

from optical_dfa.device_source import DeviceSource
from optical_dfa.devices import ProjectionDevice, check_device_config
from optical_dfa.encode import Encoder, Ternarize
from optical_dfa.errors import AttachError
from optical_dfa.feedback import Feedback
from optical_dfa.forwards import Choices
from optical_dfa.points import After, find_module, find_points
from optical_dfa.projection import NonFinite, Projector
from optical_dfa.sharing import Layout
from optical_dfa.structures import Selector, check_selectors
from optical_dfa.wiring import is_point, wirings_of


def attach(
    net: nn.Module,
    *,
    after: After | None = None,
    device: str | Mapping[str, Any] | ProjectionDevice = "emulator",
    ternarize: Encoder | None = Ternarize(),  # noqa: B008  # frozen
    layout: Layout = "shared",
    scale: float | None = None,
    derivative: bool = True,
    error_at: str | None = None,
    output: Selector | Sequence[Selector] | None = None,
    nonfinite: NonFinite = "raise",
) -> Feedback:
    """Train a net by Direct Feedback Alignment: its blocks get the projected error of the output instead of gradients.

    Write the training loop as always. Attach before wrapping (compile, DDP, FSDP). docs/feedback.md says what each
    choice does.

    Args:
        net: any module. What lies above the last feedback point gets its exact gradient; each block between two points
            is driven by the feedback at its end.
        after: where blocks end: a module name; a glob, in which `*` stands for anything without a dot and `**` for
            anything; a module class, for every such module; or a list of those. None: where the forward calls
            `feedback_point`. A point's features are its last dimension (dimension 1 of 4- and 5-dimensional tensors).
            Of a tuple, list, mapping or dataclass the first floating tensor is the point; the others pass on without
            gradients.
        device: name of a device or a mapping of `name` and options (then it is sized to the net at the first backward
            or by `Feedback.plan`, opened, and closed by `Feedback.close`); or an open device of your own.
        ternarize: encoder of the error, `Ternarize` or `BitPlanes`; None sends the real error, float32, to a device
            that accepts it.
        layout: `shared`: every point reads the same outputs of the device, as in the papers; `independent`: its own.
        scale: factor of the unit-gain projection at every point; None: 1/√(features of the point).
        derivative: True: feedback is the gradient of a point's output, so that autograd applies the derivative of its
            last function. False: it is the gradient of the input of the points, which must be elementwise functions
            without parameters (activations); their derivative is left out.
        error_at: name of the module whose output carries the error; None: the net's output, or what the forward marks
            with `feedback_tap`.
        output: which tensor of that output: a key, an attribute path ('decoder.logits'), an index, or a function of it;
            a list for several, whose errors are joined along the features. None: the output is one tensor.
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
    if scale is not None and not (_is_number(scale) and 0 < scale < math.inf):
        raise AttachError(f"scale must be a number above 0, or None for 1/√(features of the point); got {scale!r}")
    points, error_module, selectors = find_parts(net, after, error_at, output, derivative)
    spec = _check_device(device, ternarize)
    _reset_compiler()
    projector = Projector(DeviceSource(spec), ternarize, nonfinite)
    return Feedback(net, points, error_module, selectors, projector, Choices(layout, scale, derivative))


def find_parts(
    net: nn.Module,
    after: After | None,
    error_at: str | None,
    output: Selector | Sequence[Selector] | None,
    derivative: bool,
) -> tuple[dict[str, nn.Module] | None, nn.Module | None, tuple[Selector, ...]]:
    """The points by name, the module and the part of its output that carry the error; as `attach` means them.

    Raises:
        AttachError: the net cannot be attached as asked.
    """
    if derivative not in (True, False):
        raise AttachError(f"derivative must be True or False; got {derivative!r}")
    _refuse_wrapped(net)
    points = None if after is None else find_points(net, after)
    if points is None and not derivative:
        raise AttachError(
            "derivative=False needs modules in after=; where the forward marks its points, put feedback_point in front "
            "of the activation"
        )
    error_module = None if error_at is None else find_module(net, error_at, "error_at")
    if points is not None:
        for name, module in points.items():
            if module is error_module:
                raise AttachError(
                    f"{name!r} cannot both carry the error and be a feedback point: leave it out of after="
                )
            if is_point(module):
                raise AttachError(f"module {name!r} has feedback already: close() the other feedback first")
            if not derivative and any(True for _ in module.parameters()):
                raise AttachError(
                    f"derivative=False: feedback point {name!r} is a {type(module).__name__} with parameters; it must "
                    "be an elementwise function without any: name the activations in after="
                )
    if wirings_of(net):
        raise AttachError(f"{type(net).__name__} has feedback already: close() the other feedback first")
    return points, error_module, check_selectors(output)


def _check_device(
    device: str | Mapping[str, Any] | ProjectionDevice, ternarize: Encoder | None
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


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
