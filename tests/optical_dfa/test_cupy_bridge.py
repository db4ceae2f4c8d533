"""Errors on a GPU reach a device on that GPU, and its fields come back, without a copy to the host."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fake_cupy import Fake, installed
from torch import nn

import optical_dfa
from optical_dfa import cupy_bridge, projection
from optical_dfa.devices import ProjectionDevice, open_device
from optical_dfa.emulator.cupy_product import why_unavailable

STREAM = 4242


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    """A fake CuPy that shares memory with CPU tensors, and PyTorch's current stream."""
    stream = SimpleNamespace(__cuda_stream__=lambda: (0, STREAM))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    with installed(Fake()) as fake:
        yield fake


def digital(n_inputs: int = 20, n_outputs: int = 300, backend: str = "cupy") -> ProjectionDevice:
    return open_device("digital", n_inputs=n_inputs, n_outputs=n_outputs, seed=1, backend=backend)


def ternary(rows: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(rows).integers(-1, 2, (rows, 20), np.int8))


def test_the_device_reads_the_tensor_itself_on_the_stream_of_torch(fake: Fake) -> None:
    seen = []
    vectors, device = ternary(7), digital()
    project = device.project

    def watched(array: Any) -> Any:
        seen.append(array.data.ptr)
        fields: Any = project(array)
        seen.append(fields.data.ptr)
        return fields

    device.project = watched  # type: ignore[method-assign,assignment]
    fields = cupy_bridge.project_on_gpu(device, vectors)
    assert seen == [vectors.data_ptr(), fields.data_ptr()]
    assert {stream for _, stream in fake.gpu.log} == {STREAM}
    np.testing.assert_array_equal(fields.numpy(), digital(backend="numpy").project(vectors.numpy()))


def test_real_and_sliced_tensors(fake: Fake) -> None:
    device, numpy = digital(), digital(backend="numpy")
    wide = torch.cat([ternary(5), ternary(5)], dim=1)
    for vectors in (wide[:, :20], wide[::2, 20:], ternary(5).float()):
        found = cupy_bridge.project_on_gpu(device, vectors)
        np.testing.assert_array_equal(found.numpy(), numpy.project(np.ascontiguousarray(vectors.numpy())))


def test_only_a_cuda_tensor_and_a_device_that_takes_cupy(fake: Fake) -> None:
    on_gpu: Any = SimpleNamespace(is_cuda=True)
    assert cupy_bridge.stays_on_gpu(digital(), on_gpu)
    assert not cupy_bridge.stays_on_gpu(digital(backend="numpy"), on_gpu)
    assert not cupy_bridge.stays_on_gpu(digital(), ternary(2))


@pytest.mark.parametrize("ternarize", [optical_dfa.Ternarize(), None], ids=["ternary", "real"])
def test_a_net_trains_the_same(ternarize: Any, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients and sample through the bridge, as if the CPU tensors were CUDA tensors, equal those of NumPy."""
    calls = []
    real = ternarize is None

    def on_gpu(device: ProjectionDevice, vectors: torch.Tensor) -> bool:
        calls.append(device.info.backend)
        return device.info.accepts_cupy

    monkeypatch.setattr(projection, "stays_on_gpu", on_gpu)
    gradients = []
    for backend in ("cupy", "numpy"):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 30), nn.Tanh(), nn.Linear(30, 20))
        device = digital(20, 30, backend)
        feedback = optical_dfa.attach(net, after=nn.Tanh, device=device, ternarize=ternarize)
        for _ in range(3):
            net(torch.randn(100, 6)).square().sum().backward()
        first, sample = net[0].weight.grad, feedback.sample
        assert isinstance(first, torch.Tensor)
        gradients.append((first.clone(), sample))
        feedback.close()
    assert calls == ["cupy"] * 3 + ["numpy"] * 3
    assert np.array_equal(gradients[0][1], gradients[1][1])
    assert gradients[0][1].shape == (256, 20)
    if real:  # float32 sums in another order
        torch.testing.assert_close(gradients[0][0], gradients[1][0])
    else:
        assert torch.equal(gradients[0][0], gradients[1][0])


@pytest.mark.gpu
def test_zero_copy_on_a_gpu() -> None:
    """Real CuPy and CUDA tensors: the same addresses on both sides, on a stream that is not the default one."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device, or a CPU build of PyTorch")
    if (reason := why_unavailable()) is not None:
        pytest.skip(reason)
    device, numpy, seen = digital(), digital(backend="numpy"), []
    project = device.project

    def watched(array: Any) -> Any:
        fields: Any = project(array)
        seen.append((array.data.ptr, fields.data.ptr))
        return fields

    device.project = watched  # type: ignore[method-assign,assignment]
    for stream in (torch.cuda.default_stream(), torch.cuda.Stream()):  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            vectors = ternary(7).cuda(non_blocking=True)
            fields = cupy_bridge.project_on_gpu(device, vectors)
            assert seen.pop() == (vectors.data_ptr(), fields.data_ptr())
            doubled = (2 * fields).cpu().numpy()
        np.testing.assert_array_equal(doubled, 2 * numpy.project(ternary(7).numpy()))


@pytest.mark.gpu
def test_a_net_on_a_gpu_trains_without_a_copy_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device, or a CPU build of PyTorch")
    if (reason := why_unavailable()) is not None:
        pytest.skip(reason)

    def forbidden(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("copied to the host")

    gradients = []
    for backend in ("cupy", "numpy"):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 30), nn.Tanh(), nn.Linear(30, 20)).cuda()
        feedback = optical_dfa.attach(net, after=nn.Tanh, device=digital(20, 30, backend))
        loss = net(torch.randn(100, 6).cuda()).square().sum()
        with monkeypatch.context() as patch:
            if backend == "cupy":
                patch.setattr(torch.Tensor, "cpu", forbidden)
                patch.setattr(torch.Tensor, "numpy", forbidden)
            loss.backward()
        first = net[0].weight.grad
        assert isinstance(first, torch.Tensor)
        gradients.append(first.cpu())
        feedback.close()
    assert torch.equal(*gradients)
