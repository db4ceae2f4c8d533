"""The projection as one opaque operator: torch sees a tensor go in and a tensor come out.

Being opaque is what lets a NumPy device live inside `torch.compile(fullgraph=True)` and `torch.func.grad`: a plain call
breaks both, `torch.library.custom_op` breaks the second. The device is found by an integer handle.
"""

import threading
import weakref
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, Literal

import numpy.typing as npt
import torch
from torch import Tensor

from optical_dfa.cupy_bridge import project_on_gpu, stays_on_gpu
from optical_dfa.devices import ProjectionDevice
from optical_dfa.encode import Ternarize
from optical_dfa.errors import FeedbackShapeError, NonFiniteError

NonFinite = Literal["raise", "nan"]

SAMPLE_VECTORS = 256
"""Most recently displayed vectors that are kept, to measure a device on what it is used for. They stay where the error
is, on the GPU too."""


class Projector:
    """Encodes errors, projects them on a device, and restores their magnitude.

    Args:
        make_device: gives an open device for (n_inputs, n_outputs); called at the first projection.
        encoder: None sends the real error to a device that takes it.
        nonfinite: what to do with a row that holds NaN or infinity: `raise`, or `nan`: it is not displayed and its
            feedback is NaN, so that a GradScaler skips the step.
    """

    def __init__(
        self, make_device: Callable[[int, int], ProjectionDevice], encoder: Ternarize | None, nonfinite: NonFinite
    ) -> None:
        self._make_device = make_device
        self._lock = threading.Lock()
        self.device: ProjectionDevice | None = None
        self.encoder = encoder
        self.nonfinite = nonfinite
        self.calls = 0
        self.nonfinite_rows = 0
        self._sample: Tensor | None = None
        self._pending_device_state: Mapping[str, Any] | None = None
        self.handle = next(_handles)
        _projectors[self.handle] = self

    @property
    def sample(self) -> npt.NDArray[Any] | None:
        """The most recently displayed vectors, at most `SAMPLE_VECTORS`; None before the first."""
        return None if self._sample is None else self._sample.numpy(force=True)

    def require_device(self, n_inputs: int, n_outputs: int) -> ProjectionDevice:
        """The device, made at the first call; refused if it is of the wrong size."""
        with self._lock:
            if self.device is None:
                self.device = self._make_device(n_inputs, n_outputs)
            if self._pending_device_state is not None:  # stays, and is refused again, if it belongs to another device
                self.device.load_state_dict(self._pending_device_state)
                self._pending_device_state = None
        info = self.device.info
        if info.n_inputs != n_inputs or info.n_outputs < n_outputs:
            raise FeedbackShapeError(
                f"the error has {n_inputs} features and the feedback points need {n_outputs} outputs, but device "
                f"{info.name!r} has {info.n_inputs} inputs and {info.n_outputs} outputs: open one of the right size, "
                "or give attach the device's name and let it be sized to the net"
            )
        return self.device

    def __call__(self, error: Tensor, n_outputs: int) -> Tensor:
        """Project: error (rows, features) → float32 (rows, n_outputs) on the error's device."""
        device = self.require_device(error.shape[1], n_outputs)
        error = error.detach().float()
        finite = error.isfinite().all(1)
        bad = len(error) - int(finite.sum())
        if bad:
            if self.nonfinite == "raise":
                raise NonFiniteError(
                    f"{bad} of {len(error)} error vectors hold NaN or infinity: lower the learning rate, look at the "
                    "loss, or attach with nonfinite='nan' to let a GradScaler skip the step"
                )
            error = error.masked_fill(~finite[:, None], 0.0)
        if self.encoder is None:
            fields = self._display(device, error, n_outputs)
        else:
            vectors, scale = self.encoder(error, self.calls)
            fields = self._display(device, vectors, n_outputs) * scale
        self.calls += 1
        self.nonfinite_rows += bad
        return fields.masked_fill_(~finite[:, None], float("nan")) if bad else fields

    def _display(self, device: ProjectionDevice, vectors: Tensor, n_outputs: int) -> Tensor:
        if stays_on_gpu(device, vectors):
            fields = project_on_gpu(device, vectors)
            if self.encoder is None:
                fields = fields.clone()  # otherwise magnitudes are restored, which copies too; see `cupy_bridge`
        else:
            fields = torch.from_numpy(device.project(vectors.cpu().numpy())).to(vectors.device)
        self._keep(vectors)
        return fields[:, :n_outputs]

    def _keep(self, vectors: Tensor) -> None:
        """Keep the last vectors in mind, where they are: a few of them, and no wait for a GPU."""
        recent = vectors.detach()[-SAMPLE_VECTORS:]
        earlier = recent[:0] if self._sample is None else self._sample.to(recent.device)
        room = SAMPLE_VECTORS - len(recent)
        self._sample = torch.cat([earlier[max(0, len(earlier) - room) :], recent])

    def state_dict(self) -> dict[str, Any]:
        """Position of encoder and device, plain values only."""
        device = self._pending_device_state if self.device is None else self.device.state_dict()
        return {"calls": self.calls, "device": device}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was saved; a device that is not made yet takes its part when it is."""
        if state["device"] is not None:
            if self.device is None:
                self._pending_device_state = state["device"]
            else:
                self.device.load_state_dict(state["device"])
        self.calls = int(state["calls"])


_handles = count()
_projectors: weakref.WeakValueDictionary[int, Projector] = weakref.WeakValueDictionary()


def _project(error: Tensor, handle: int, n: int) -> Tensor:
    projector = _projectors.get(handle)
    if projector is None:
        raise RuntimeError("the feedback of this net no longer exists: keep the object that attach returned")
    return projector(error, n)


def _project_shape(error: Tensor, handle: int, n: int) -> Tensor:
    return error.new_empty((error.shape[0], n), dtype=torch.float32)


_library = torch.library.Library("optical_dfa", "DEF")  # type: ignore[no-untyped-call]
_library.define("project(Tensor error, int handle, int n) -> Tensor")  # type: ignore[no-untyped-call]
for _key in ("CPU", "CUDA"):
    _library.impl("project", _project, _key)  # type: ignore[no-untyped-call]
torch.library.register_fake("optical_dfa::project", _project_shape, lib=_library)


def project(error: Tensor, handle: int, n_outputs: int) -> Tensor:
    """Call the operator `optical_dfa::project`: error (rows, features) → float32 (rows, n_outputs)."""
    result: Tensor = torch.ops.optical_dfa.project(error, handle, n_outputs)
    return result
