"""One of two processes that train together: `python two_ranks.py KIND RANK FOLDER` writes what it found there.

Gradients by variant, after the second of two equal steps, and the feedback matrix.
"""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from by_hand import gradients
from device_kinds import DIM
from rows import POINTS, loss, make_net
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from optical_dfa import FeedbackError, attach, feedback_of

DDP_VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "find_unused_parameters": {"find_unused_parameters": True},
    "static_graph": {"static_graph": True},
    "several_buckets": {"bucket_cap_mb": 1e-4},
    "gradient_as_bucket_view": {"gradient_as_bucket_view": True, "bucket_cap_mb": 1e-4},
}
DEFERRED_VARIANTS = ("default", "find_unused_parameters", "several_buckets", "gradient_as_bucket_view")
"""Without `static_graph`, which PyTorch does not take together with a `no_sync` at the start."""
FSDP_VARIANTS: dict[str, tuple[bool, bool]] = {
    "attach_first": (True, True),
    "attach_first_keep_parameters": (True, False),
    "shard_first": (False, True),
    "shard_first_keep_parameters": (False, False),
}


def deep_net() -> nn.Module:
    """The blocks of `make_net` with a layer more in each, so that their backward needs their own weights."""
    net = make_net()
    for block, width in (("a", 16), ("b", 12)):
        torch.manual_seed(width)
        net.get_submodule(block).append(nn.Linear(width, width))  # type: ignore[operator]
    return net


def ddp(rank: int) -> dict[str, Any]:
    def run(options: dict[str, Any]) -> Any:
        net = make_net()
        attach(net, after=POINTS, device="digital", ternarize=None)
        wrapped = DistributedDataParallel(net, **options)
        two_steps(wrapped, net, rank)
        return net, gradients(net)

    return collect({name: partial(run, options) for name, options in DDP_VARIANTS.items()})


def fsdp(rank: int) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (2,))

    def run(attach_first: bool, reshard: bool) -> Any:
        net = deep_net()
        if attach_first:
            attach(net, after=POINTS, device="digital", ternarize=None)
        for name in POINTS:
            fully_shard(net.get_submodule(name), mesh=mesh, reshard_after_forward=reshard)
        fully_shard(net, mesh=mesh, reshard_after_forward=reshard)
        if not attach_first:
            attach(net, after=POINTS, device="digital", ternarize=None)
        two_steps(net, net, rank)
        return net, {name: p.grad.full_tensor() for name, p in net.named_parameters()}  # type: ignore[union-attr]

    return collect({name: partial(run, *how) for name, how in FSDP_VARIANTS.items()})


def served(rank: int) -> dict[str, Any]:
    """Gradients by noisy errors, from an emulator of the rank's own and from a served one."""
    address = (folder / "address").read_text()

    def found(device: dict[str, Any]) -> Any:
        net = make_net()
        with attach(net, after=POINTS, device=device):
            two_steps(DistributedDataParallel(net), net, rank)
        return gradients(net)

    own = {"name": "emulator", "backend": "numpy", **DIM}
    return {"own": found(own), "served": found({"name": "remote", "address": address})}


def deferred(rank: int) -> dict[str, Any]:
    """Three micro-batches inside `no_sync`, the fourth outside: gradients of both ways, and what is refused."""

    def run(options: dict[str, Any], is_deferred: bool) -> Any:
        net = make_net()
        feedback = attach(net, after=POINTS, device={"name": "emulator", "preset": "phase-stepping"})
        wrapped = DistributedDataParallel(net, **options)
        for _ in range(2):
            net.zero_grad()
            with wrapped.no_sync(), feedback.deferred() if is_deferred else nullcontext():
                for seed in range(3):
                    torch.autograd.backward(loss(wrapped, seed=10 * rank + seed))
            torch.autograd.backward(loss(wrapped, seed=10 * rank + 3))
        return net, gradients(net)

    variants: dict[str, Callable[[], Any]] = {
        f"{name}, {'deferred' if is_deferred else 'at once'}": partial(run, DDP_VARIANTS[name], is_deferred)
        for name in DEFERRED_VARIANTS
        for is_deferred in (False, True)
    }
    return {**collect(variants), "refused": refused()}


def refused() -> list[str]:
    """What a forward outside `no_sync`, and a sharded net, are told."""
    messages = []
    for wrap in (DistributedDataParallel, partial(fully_shard, mesh=init_device_mesh("cpu", (2,)))):
        net = make_net()
        with attach(net, after=POINTS, device="digital", ternarize=None) as feedback:
            call: Any = wrap(net)
            try:
                with feedback.deferred():
                    loss(call)
            except FeedbackError as error:
                messages.append(str(error))
    return messages


def two_steps(call: Callable[[Any], Any], net: nn.Module, rank: int) -> None:
    for _ in range(2):
        net.zero_grad()
        torch.autograd.backward(loss(call, seed=rank + 1))


def collect(variants: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    found = {}
    for name, run in variants.items():
        net, grads = run()
        found[name] = {key: value.clone() for key, value in grads.items()}
        feedback = feedback_of(net)
        matrix = feedback.device.effective_matrix()
        feedback.close()
    return {"gradients": found, "matrix": torch.from_numpy(matrix)}


if __name__ == "__main__":
    kind, rank, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    dist.init_process_group("gloo", init_method=f"file://{folder}/{kind}", rank=rank, world_size=2)
    torch.save(
        {"ddp": ddp, "fsdp": fsdp, "served": served, "deferred": deferred}[kind](rank), folder / f"{kind}-{rank}.pt"
    )
    dist.destroy_process_group()
