"""Two processes on gloo: the gradients are the mean of what the formula gives on each batch."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
import two_ranks
from by_hand import assert_close, by_hand, driven, feedback, softmax_error
from device_kinds import closed, opened, ternary
from rows import batch, formula, make_net
from served import ANYWHERE, remote, running
from torch import Tensor

from optical_dfa.devices.server.opu_server import Server
from optical_dfa.devices.serving import ServedDevice


def run(kind: str, folder: Path) -> list[dict[str, Any]]:
    """What both ranks found."""
    script = Path(two_ranks.__file__)
    paths = [str(script.parent), str(script.parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    environment.pop("RANK", None)
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), kind, str(rank), str(folder)],
            stderr=subprocess.PIPE, text=True, env={**environment, "RANK": str(rank)},
        )
        for rank in (0, 1)
    ]  # fmt: skip
    ends = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(ends)
    return [torch.load(folder / f"{kind}-{rank}.pt") for rank in (0, 1)]


def halved(gradients: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    return {name: None if one is None else one / 2 for name, one in gradients.items()}


def test_distributed_data_parallel(tmp_path: Path) -> None:
    """Default, find_unused_parameters, static_graph, several buckets, gradients as views of the buckets."""
    first, second = run("ddp", tmp_path)
    wanted = halved(formula(make_net(), first["matrix"].numpy(), 1, 2))
    assert list(first["gradients"]) == list(two_ranks.DDP_VARIANTS)
    for rank in (first, second):
        for found in rank["gradients"].values():
            assert_close(found, wanted)


def test_two_ranks_and_a_job_of_their_own_share_a_server(tmp_path: Path) -> None:
    """Each as if it were alone: two noisy steps of two ranks, while another client projects all the time."""
    server, shown = Server(ServedDevice(closed("noisy", backend="numpy")), ANYWHERE), 0
    with (
        running(server) as address,
        remote(address, stream=7) as other,
        opened("noisy", stream=7, backend="numpy") as local,
        ThreadPoolExecutor(1) as executor,
    ):
        (tmp_path / "address").write_text(address)
        ranks = executor.submit(run, "served", tmp_path)
        while not wait([ranks], 0.02).done:
            vectors = ternary(1 + shown % 9)
            np.testing.assert_array_equal(other.project(vectors), local.project(vectors))
            shown += 1
        first, second = ranks.result()
        assert server.counts["performed"] == shown + 4
    for rank in (first, second):
        for name, gradient in rank["served"].items():
            assert torch.equal(gradient, rank["own"][name]), name
            assert torch.equal(gradient, first["own"][name]), name


def test_fully_sharded(tmp_path: Path) -> None:
    """FSDP2, attached before and after fully_shard, with and without resharding after the forward."""
    first, second = run("fsdp", tmp_path)
    matrix = first["matrix"].numpy()

    def total(n: Any) -> Tensor:
        result = torch.zeros(())
        for seed in (1, 2):
            x, y = batch(seed)
            h1 = n.a(x.double())
            h2 = n.b(h1.detach())
            out = n.c(h2.detach())
            e = softmax_error(out, y)
            result = result + driven([(h1, feedback(e, matrix)), (h2, feedback(e, matrix[:12]))], out, e)
        return result

    wanted = halved(by_hand(two_ranks.deep_net(), total))
    assert list(first["gradients"]) == list(two_ranks.FSDP_VARIANTS)
    for rank in (first, second):
        for found in rank["gradients"].values():
            assert_close(found, wanted)


def test_deferred_projections(tmp_path: Path) -> None:
    """Accumulated inside `no_sync`, with noise that each rank has of its own: the bits of what is not deferred."""
    ranks = run("deferred", tmp_path)
    for found in (rank["gradients"] for rank in ranks):
        for name in two_ranks.DEFERRED_VARIANTS:
            at_once, deferred = found[f"{name}, at once"], found[f"{name}, deferred"]
            assert {key: one.numpy().tobytes() for key, one in deferred.items()} == {
                key: one.numpy().tobytes() for key, one in at_once.items()
            }
    for rank in ranks:
        unsynchronised, sharded = rank["refused"]
        assert unsynchronised.startswith("deferred() under DistributedDataParallel needs no_sync()")
        assert sharded.startswith("deferred() cannot be used with fully_shard")
