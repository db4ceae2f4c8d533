"""Running a part of training twice so that the second run leaves no trace."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Snapshot:
    """Random numbers and buffers as they are now.

    Random numbers are those of PyTorch's default generators, of the CPU and of the GPUs that the net lies on.
    """

    def __init__(self, net: nn.Module) -> None:
        self._gpus = sorted({tensor.device.index for tensor in net.parameters() if tensor.device.type == "cuda"})
        self._random = self._random_state()
        self._buffers = [
            {name: None if one is None else one.clone() for name, one in module._buffers.items()}
            for module in net.modules()
        ]

    @contextmanager
    def again(self, net: nn.Module) -> Iterator[None]:
        """Within the block, random numbers and buffers are those of the snapshot; then those of before it again."""
        now, own = self._random_state(), [dict(module._buffers) for module in net.modules()]
        self._set_random_state(self._random)
        for module, buffers in zip(net.modules(), self._buffers, strict=True):
            module._buffers.update(buffers)
        try:
            yield
        finally:
            self._set_random_state(now)
            for module, buffers in zip(net.modules(), own, strict=True):
                module._buffers.update(buffers)

    def _random_state(self) -> list[Tensor]:
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(gpu) for gpu in self._gpus)]

    def _set_random_state(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        for gpu, state in zip(self._gpus, states[1:], strict=True):
            torch.cuda.set_rng_state(state, gpu)
