"""The projection as one opaque operator: torch sees a tensor go in and a tensor come out.

Being opaque is what lets a NumPy device live inside `torch.compile(fullgraph=True)` and `torch.func.grad`: a plain call
breaks both, `torch.library.custom_op` breaks the second. The device is found by an integer handle.
"""

import math
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor

from optical_dfa.cupy_bridge import project_on_gpu, stays_on_gpu
from optical_dfa.device_source import DeviceSource
from optical_dfa.devices import ProjectionDevice
from optical_dfa.encode import Encoded, Encoder, Ternarize
from optical_dfa.errors import NonFiniteError
from optical_dfa.watch import watching

NonFinite = Literal["raise", "nan"]

SAMPLE_VECTORS = 256
"""Most recently displayed vectors that are kept, to measure a device on what it is used for. They stay where the error
is, on the GPU too."""


MANY = 1 << 18
"""Entries of errors that are worth the import of Numba, half a second, where the device has not done it: PyTorch takes
a millisecond to encode them, its kernel a fifth."""


@dataclass(frozen=True)
class Projection:
    """One projection, as `Feedback.on_projection` reports it; tensors are where the error is, and not to be changed."""

    error: Tensor
    """float32 (rows, error features): the error vectors; rows that held NaN or infinity are zero."""
    encoded: Tensor
    """What was displayed: int8 (rows · planes, error features), -1, 0 or 1, the planes of a row one after the other
    (`BitPlanes` has several); or float32 (rows, error features), the error itself."""
    scale: Tensor | None
    """float32 (rows, planes): weights, error ≈ the sum of scale · encoded over the planes; None: it is the error."""
    field: Tensor
    """float32 (rows · planes, outputs): what the device gave for `encoded`, unit gain, before planes are summed."""
    device: ProjectionDevice

    def combine(self, displayed: Tensor) -> Tensor:
        """What belongs to each error, (rows, n), of something linear of each displayed vector, (rows · planes, n)."""
        return displayed if self.scale is None else Encoded(self.encoded, self.scale).combine(displayed)

    @property
    def snr_db(self) -> float | None:
        """Signal-to-noise ratio of `field`, decibels, by the law of `measured_snr_db`; displays nothing.

        Computed when it is asked for, by the exact product with `device.effective_matrix`. None where the device is
        exact or does not know its matrix, and for vectors that are all zero.
        """
        matrix = None if self.device.info.exact else self.device.effective_matrix(slice(self.field.shape[1]))
        if matrix is None:
            return None
        exact = self.encoded.double() @ torch.from_numpy(matrix).to(self.field.device).double().T
        signal, noise = float(exact.square().sum()), float((self.field - exact).square().sum())
        return 10 * math.log10(signal / noise) if signal and noise else None


class Shown(NamedTuple):
    """Errors as they go to the device: encoded, and what is needed to make gradients of its answer."""

    device: ProjectionDevice
    n_outputs: int
    error: Tensor
    """As in `Projection`."""
    bad: Tensor | None
    """Which rows of it were not finite, bool (rows,); None: they were."""
    vectors: Tensor
    """As `Projection.encoded`."""
    scale: Tensor | None
    factor: float
    """What the gradients are multiplied by besides."""
    gain: Tensor | None = None
    """scale · factor, where it is known already."""


class Projector:
    """Encodes errors, projects them on a device, and restores their magnitude.

    Args:
        source: gives an open device for the sizes of the first projection.
        encoder: None sends the real error to a device that takes it.
        nonfinite: what to do with a row that holds NaN or infinity: `raise`, or `nan`: it is not displayed and its
            feedback is NaN, so that a GradScaler skips the step.
    """

    def __init__(self, source: DeviceSource, encoder: Encoder | None, nonfinite: NonFinite) -> None:
        self.source = source
        self.encoder = encoder
        self.nonfinite = nonfinite
        self.calls = 0
        self.nonfinite_rows = 0
        self._recent: tuple[Tensor, ...] = ()
        """The last vectors, not more of them than are needed."""
        self._register()

    def _register(self) -> None:
        self.observers: OrderedDict[int, Callable[[Projection], None]] = OrderedDict()
        self.handle = next(_handles)
        _projectors[self.handle] = self

    @property
    def sample(self) -> npt.NDArray[Any] | None:
        """The most recently displayed vectors, at most `SAMPLE_VECTORS`; None before the first."""
        if not self._recent:
            return None
        return torch.cat([vectors.cpu() for vectors in self._recent])[-SAMPLE_VECTORS:].numpy()

    def __call__(self, error: Tensor, n_outputs: int, scale: float) -> Tensor:
        """Project: error (rows, features) → float32 (rows, n_outputs), times `scale`, on the error's device."""
        shown = self.encode(error, n_outputs, scale)
        fields = self.restore(shown, self._display(shown))
        self.calls += 1
        return fields

    def encode(self, error: Tensor, n_outputs: int, factor: float) -> Shown:
        """What is to be displayed for errors (rows, features), whose projection will be multiplied by `factor`.

        Raises:
            NonFiniteError: they hold NaN or infinity.
        """
        device = self.source.require(error.shape[1], n_outputs)
        # each of these costs something even where it has nothing to do
        error = error.detach() if error.requires_grad else error
        error = error if error.dtype == torch.float32 else error.float()
        # a subclass may encode in its own way
        if type(self.encoder) is Ternarize and (device.info.backend == "numba" or error.numel() >= MANY):
            at_once = self.encoder.in_one_pass(error, factor)
            if at_once is not None:
                encoded, gain = at_once
                return Shown(device, n_outputs, error, None, *encoded, factor, gain)
        bad = None
        if not math.isfinite(float(error.sum())):  # one number; of finite errors it is so only if they overflow it
            bad = ~error.isfinite().all(1)
            if self.nonfinite == "raise" and bad.any():
                raise NonFiniteError(
                    f"{int(bad.sum())} of {len(error)} error vectors hold NaN or infinity: lower the learning rate, "
                    "look at the loss, or attach with nonfinite='nan' to let a GradScaler skip the step"
                )
            error = error.masked_fill(bad[:, None], 0.0)
        vectors, scale = (error, None) if self.encoder is None else self.encoder(error, self.calls)
        return Shown(device, n_outputs, error, bad, vectors, scale, factor)

    def submit(self, shown: Shown, after: Future[Any] | None) -> Future[Any]:
        """Have it displayed without waiting, and count the call; the future is for `restore`.

        Args:
            shown: from `encode`.
            after: an earlier such future; if that fails, this is not displayed and fails alike.
        """
        if stays_on_gpu(shown.device, shown.vectors):  # which waits for nothing
            answer: Future[Any] = Future()
            answer.set_result(project_on_gpu(shown.device, shown.vectors).clone())
        else:
            answer = shown.device.submit(shown.vectors.cpu().numpy(), after=after)
        self.calls += 1
        return answer

    def restore(self, shown: Shown, fields: Any) -> Tensor:
        """Tell the observers, and bring the device's answer to the magnitude of the errors, times the factor."""
        ours = False
        if not isinstance(fields, Tensor):
            ours = fields.flags.writeable and not self.observers  # the device keeps nothing of it, nobody looks at it
            fields = torch.from_numpy(fields)
            if not shown.error.is_cpu:
                fields = fields.to(shown.error.device)
        self.keep(shown)
        if fields.shape[1] != shown.n_outputs:
            fields = fields[:, : shown.n_outputs]
        for observer in tuple(self.observers.values()):
            observer(Projection(shown.error, shown.vectors, shown.scale, fields, shown.device))
        if shown.scale is not None:
            gain = shown.scale * shown.factor if shown.gain is None else shown.gain
            in_place = ours and gain.shape[1] == 1
            restored = fields.mul_(gain) if in_place else Encoded(shown.vectors, gain).combine(fields)
        else:
            restored = fields if shown.factor == 1 else fields * shown.factor
        return restored if shown.bad is None else restored.masked_fill(shown.bad[:, None], float("nan"))

    def _display(self, shown: Shown) -> Any:
        if not stays_on_gpu(shown.device, shown.vectors):
            vectors = shown.vectors
            return shown.device.project((vectors if vectors.is_cpu else vectors.cpu()).numpy())
        fields = project_on_gpu(shown.device, shown.vectors)
        # without an encoder nothing is restored, which copies; see `cupy_bridge`
        return fields.clone() if self.encoder is None or self.observers else fields

    def keep(self, shown: Shown) -> None:
        """Keep in mind what was displayed; the last vectors where they are, without a wait for a GPU."""
        if shown.bad is not None:
            self.nonfinite_rows += int(shown.bad.sum())
        vectors = shown.vectors
        if shown.scale is None or vectors.shape[0] > SAMPLE_VECTORS:  # errors may change later; the rest is not needed
            vectors = vectors[-SAMPLE_VECTORS:].clone()
        recent = (*self._recent, vectors)
        rows = [one.shape[0] for one in recent]
        while sum(rows) - rows[0] >= SAMPLE_VECTORS:
            recent, rows = recent[1:], rows[1:]
        self._recent = recent  # at once: several threads may project

    def state_dict(self) -> dict[str, Any]:
        """Position of encoder and device, plain values only."""
        return {"calls": self.calls, "device": self.source.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was saved; a device that is not made yet takes its part when it is."""
        self.source.load_state_dict(state["device"])
        self.calls = int(state["calls"])

    def __getstate__(self) -> dict[str, Any]:
        """All but the observers and the handle: a copy has its own."""
        return {name: value for name, value in vars(self).items() if name not in ("observers", "handle")}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self._register()


_handles = count()
_projectors: weakref.WeakValueDictionary[int, Projector] = weakref.WeakValueDictionary()


def _project(error: Tensor, handle: int, n: int, scale: float) -> Tensor:
    projector = _projectors.get(handle)
    if projector is None:
        raise RuntimeError("the feedback of this net no longer exists: keep the object that attach returned")
    return projector(error, n, scale)


def _project_shape(error: Tensor, handle: int, n: int, scale: float) -> Tensor:
    return error.new_empty((error.shape[0], n), dtype=torch.float32)


_library = torch.library.Library("optical_dfa", "DEF")  # type: ignore[no-untyped-call]
_library.define("project(Tensor error, int handle, int n, float scale) -> Tensor")  # type: ignore[no-untyped-call]
for _key in ("CPU", "CUDA"):
    _library.impl("project", _project, _key)  # type: ignore[no-untyped-call]
torch.library.register_fake("optical_dfa::project", _project_shape, lib=_library)


def project(error: Tensor, handle: int, n_outputs: int, scale: float) -> Tensor:
    """Call the operator `optical_dfa::project`: error (rows, features) → float32 (rows, n_outputs), times `scale`.

    Where nothing looks at operators, what it does is called at once: the dispatcher is a sixth of a small projection.
    """
    plain = watching() and type(error) is Tensor and not error.is_meta
    if plain and not torch._C._len_torch_dispatch_stack():
        return _project(error, handle, n_outputs, scale)
    result: Tensor = torch.ops.optical_dfa.project(error, handle, n_outputs, scale)
    return result
