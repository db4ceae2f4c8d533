"""Direct Feedback Alignment written out in float64, without a line of the package: what gradients are compared with.

A test states the structure of its net as blocks that start from detached inputs; the feedback of each point and the
error are numbers here, so that what is left for autograd is the inside of a block.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

Array = npt.NDArray[np.float64]


def softmax_error(logits: Tensor, y: Tensor) -> Tensor:
    """dL/d(logits) of the mean cross-entropy."""
    error: Tensor = (logits.softmax(-1) - one_hot(y, logits.shape[-1])) / y.numel()
    return error


def ternary(error: Tensor) -> Tensor:
    """‖e‖/‖t‖ · t of each vector (last dimension), t = sign(e) where |e| > max|e| / 2."""
    shown = torch.where(error.abs() > 0.5 * error.abs().amax(-1, keepdim=True), error.sign(), 0.0)
    norm = shown.norm(dim=-1, keepdim=True)
    sent: Tensor = shown * error.norm(dim=-1, keepdim=True) / torch.where(norm > 0, norm, 1.0)
    return sent


def feedback(
    error: Tensor, rows: npt.NDArray[Any], positions: Sequence[int] = (), scale: float | None = None
) -> Tensor:
    """1/√width · T·e (or `scale` · T·e) of vectors in the last dimension; shared by `positions` behind the others.

    float64 (*leading, *positions, width), each position with 1/√(positions).
    """
    matrix = torch.from_numpy(np.asarray(rows, np.float64))
    field = error.double() @ matrix.T * (len(rows) ** -0.5 if scale is None else scale)
    leading, width = field.shape[:-1], field.shape[-1]
    field = field / prod(positions) ** 0.5
    shared: Tensor = field.reshape(*leading, *(1,) * len(positions), width).expand(*leading, *positions, width)
    return shared


def driven(points: Iterable[tuple[Tensor, Tensor]], output: Tensor, error: Tensor) -> Tensor:
    """A scalar whose gradient is that of DFA: Σ ⟨h, feedback⟩ + ⟨output, error⟩ with feedback and error constant."""
    total = (output * error.detach()).sum()
    for h, fed in points:
        total = total + (h * fed.detach()).sum()
    return total


def twin(net: nn.Module) -> Any:
    """A copy in float64, without hooks and gradients, to write the formula on."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_always_called")
    without_hooks: dict[int, Any] = {
        id(getattr(module, kind)): OrderedDict() for module in net.modules() for kind in kinds
    }
    other = copy.deepcopy(net, without_hooks)
    other.zero_grad()
    return other.double()


def three_layers(matrix: npt.NDArray[Any], x: Tensor, y: Tensor) -> Callable[[Any], Tensor]:
    """For `by_hand`: a step of linear, activation, linear, activation, linear; ternary errors, rows shared."""

    def formula(n: Any) -> Tensor:
        h1 = n[1](n[0](x.double()))
        h2 = n[3](n[2](h1.detach()))
        out = n[4](h2.detach())
        e = softmax_error(out, y)
        points = [(h, feedback(ternary(e), matrix[: h.shape[1]])) for h in (h1, h2)]
        return driven(points, out, e)

    return formula


def gradients(net: nn.Module) -> dict[str, Tensor | None]:
    return {name: None if p.grad is None else p.grad.clone() for name, p in net.named_parameters()}


def by_hand(net: nn.Module, formula: Callable[[Any], Tensor]) -> dict[str, Tensor | None]:
    """Gradients of `formula`, a scalar of the float64 twin."""
    other = twin(net)
    torch.autograd.backward(formula(other))
    return gradients(other)


def assert_close(
    found: Mapping[str, Tensor | None], wanted: Mapping[str, Tensor | None], relative: float = 5e-6
) -> None:
    """Every parameter, by the norm of its gradient; None only where None is wanted."""
    assert found.keys() == wanted.keys()
    for name, one in found.items():
        other = wanted[name]
        if one is None or other is None:
            assert one is other is None, f"{name}: {one is None} but {other is None} wanted"
            continue
        distance, size = (one.double() - other).norm(), other.norm()
        assert distance <= relative * size + 1e-12, f"{name}: off by {float(distance / size):.1e}"
