"""From PyTorch to a device on the GPU and back, without a copy: DLPack, on PyTorch's current stream.

Why the memory is safe, although two allocators know nothing of each other:

- Everything the device does is enqueued on PyTorch's current stream, or joined to it again. DLPack is asked for that
  very stream on both sides, so neither side has to wait for the other.
- The vectors belong to PyTorch's allocator, which gives freed memory out again on the same stream only, hence after the
  device has read it.
- The fields belong to CuPy's pool, which does the same, and PyTorch holds them until it has enqueued its last use.
  What PyTorch's allocator knows about tensors on other streams (`record_stream`) it does not know about these: what
  leaves `Projector` is therefore memory of PyTorch's own.
"""

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from optical_dfa.devices import ProjectionDevice


def stays_on_gpu(device: ProjectionDevice, vectors: Tensor) -> bool:
    """Whether `project_on_gpu` can be used: the vectors are on a GPU and the device takes CuPy arrays."""
    return vectors.is_cuda and device.info.accepts_cupy


def project_on_gpu(device: ProjectionDevice, vectors: Tensor) -> Tensor:
    """`device.project` of a CUDA tensor, int8 or float32 (batch, n_inputs): float32 (batch, n_outputs) on that GPU.

    The result is memory of CuPy's pool, to be used on the current stream.
    """
    import cupy

    stream = cupy.cuda.Stream.from_external(torch.cuda.current_stream(vectors.device))
    with cupy.cuda.Device(vectors.device.index), stream:
        fields = device.project(cupy.from_dlpack(vectors.detach().contiguous()))
        return from_dlpack(fields)
