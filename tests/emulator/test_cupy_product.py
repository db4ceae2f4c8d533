"""The CuPy backend gives the integers of the reference: on a fake GPU everywhere, on a real one where there is one.

The fake runs the kernels as compiled C, checks every argument of cuBLAS, and does queued work in any order that streams
and events allow.
"""

import builtins
import functools
import itertools
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cupy_kinds import cupy_of, every_cupy
from fake_cupy import Fake, installed
from fresh import ternary_of

from optical_dfa.emulator import CupyProduct, NumpyProduct, cublas, cupy_product, make_product, reference
from optical_dfa.emulator.cupy_product import why_unavailable
from optical_dfa.emulator.cupy_slabs import Slab, cut
from optical_dfa.emulator.matrix import EXACT_NONZEROS, UNIT

Ternary = npt.NDArray[np.int8]
BUDGETS = {"stored": None, "procedural": 0}
storages = pytest.mark.parametrize("storage", BUDGETS)


@pytest.fixture
def cupy(kind: str) -> Iterator[Any]:
    with cupy_of(kind) as module:
        yield module


def small_slabs(product: CupyProduct, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slabs of 256 rows, and of 1024 columns where T is made anew."""
    monkeypatch.setattr(cupy_product, "SUMS", 1)
    product._slab_bytes = 1


def case(seed: int) -> tuple[int, int, int, int, float]:
    """n_inputs, n_outputs, batch, seed, sparsity; one of the first three may be large."""
    generator = np.random.default_rng([11, seed])
    limits = [(5000, 70, 30), (70, 5000, 30), (600, 600, 30), (70, 70, 300)][seed % 4]
    n_inputs, n_outputs, batch = (int(generator.integers(1, limit, endpoint=True)) for limit in limits)
    sparsity = float(generator.choice([0.0, 0.3, 0.9, 0.999, 1.0]))
    return n_inputs, n_outputs, batch, int(generator.integers(0, (1 << 64) - 1, dtype=np.uint64)), sparsity


@every_cupy
@storages
@pytest.mark.parametrize("number", range(24))
def test_integers_are_those_of_the_reference(
    number: int, storage: str, cupy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_inputs, n_outputs, batch, seed, sparsity = case(number)
    vectors = ternary_of(number, batch, n_inputs, sparsity)
    expected = reference.product(seed, vectors, n_outputs)
    product = CupyProduct(n_inputs, n_outputs, seed, BUDGETS[storage])
    assert product.plan.storage == storage
    if number % 8 < 4:
        small_slabs(product, monkeypatch)
    found = product(vectors)
    assert type(found) is np.ndarray
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)
    on_gpu = product(cupy.asarray(vectors))
    assert isinstance(on_gpu, cupy.ndarray)
    assert (on_gpu.dtype, on_gpu.shape) == (np.int32, expected.shape)
    np.testing.assert_array_equal(on_gpu.get(), expected)
    fields = product.fields(cupy.asarray(vectors))
    assert fields.dtype == np.float32
    np.testing.assert_array_equal(fields.get(), expected.astype(np.float32) * UNIT)


@every_cupy
@storages
@pytest.mark.parametrize("seed", [0, (1 << 32) - 1, 1 << 32, (1 << 64) - 1])
@pytest.mark.parametrize(
    ("n_inputs", "n_outputs"), [(1, 1), (15, 17), (1023, 255), (1024, 256), (1025, 257), (4097, 513), (3, 1500)]
)
def test_edges_of_tiles(
    n_inputs: int, n_outputs: int, seed: int, storage: str, cupy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = ternary_of(n_inputs, 18, n_inputs, 0.2)
    product = CupyProduct(n_inputs, n_outputs, seed, BUDGETS[storage])
    small_slabs(product, monkeypatch)
    np.testing.assert_array_equal(product(vectors), reference.product(seed, vectors, n_outputs))


@every_cupy
@storages
@pytest.mark.parametrize("batch", [0, 1, 31, 32, 33, 64, 95, 130])
def test_every_split_of_a_batch(batch: int, storage: str, cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = ternary_of(batch, batch, 41, 0.4)
    expected = reference.product(3, vectors, 50)
    product = CupyProduct(41, 50, 3, BUDGETS[storage])
    for at_once, n_bytes in ((4096, 1 << 30), (33, 1 << 30), (4096, 1)):
        monkeypatch.setattr(cupy_product, "BATCH", at_once)
        monkeypatch.setattr(cupy_product, "PACKED_BYTES", n_bytes)
        found = product(cupy.asarray(vectors))
        assert found.shape == (batch, 50)
        np.testing.assert_array_equal(found.get(), expected)


@every_cupy
@storages
def test_blocks_of_a_stream_cover_the_product(storage: str, cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks begin at even rows, without padding, and are read before they are overwritten."""
    vectors = ternary_of(2, 75, 1300, 0.4)
    product = CupyProduct(1300, 599, 3, BUDGETS[storage])
    small_slabs(product, monkeypatch)
    monkeypatch.setattr(cupy_product, "BATCH", 32)
    copies: list[tuple[int, int, Any]] = []
    product.stream(vectors, lambda vector, row, fields: copies.append((vector, row, fields.copy())))
    assert [(vector, row) for vector, row, _ in copies] == [*itertools.product((0, 32, 64), (0, 256, 512))]
    found = np.zeros((75, 599), np.int32)
    for vector, row, fields in copies:
        found[vector : vector + 32, row : row + 256] = fields.get()
    np.testing.assert_array_equal(found, reference.product(3, vectors, 599))


@every_cupy
@storages
def test_more_nonzeros_than_one_float32_sum_can_hold(storage: str, cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signs of row 0 give a field of 18 million, beyond 2^24, whether summed at once or slab by slab."""
    n_inputs = 520_001
    rows = reference.entries(6, np.arange(3)[:, None], np.arange(n_inputs))
    vectors = np.stack([np.where(rows[0] < 0, -1, 1), np.ones(n_inputs), -np.ones(n_inputs)]).astype(np.int8)
    assert np.count_nonzero(vectors[0]) > EXACT_NONZEROS
    expected = vectors.astype(np.int64) @ rows.astype(np.int64).T
    assert expected.max() > 1 << 24
    product = CupyProduct(n_inputs, 3, 6, BUDGETS[storage])
    product._slab_bytes = 1 << 20
    np.testing.assert_array_equal(product(vectors), expected)


@every_cupy
def test_vectors_of_any_layout(cupy: Any) -> None:
    vectors = ternary_of(5, 6, 1501, 0.5)
    product = CupyProduct(1501, 400, 8)
    expected = reference.product(8, vectors, 400)
    for layout in (np.asfortranarray(vectors), np.repeat(vectors, 2, axis=1)[:, ::2]):
        np.testing.assert_array_equal(product(layout), expected)
    np.testing.assert_array_equal(product(vectors[::-1])[::-1], expected)
    np.testing.assert_array_equal(product(cupy.asarray(vectors)[::-1]).get()[::-1], expected)
    spread = cupy.asarray(np.ascontiguousarray(np.repeat(vectors, 2, axis=1)))
    np.testing.assert_array_equal(product(spread[:, ::2]).get(), expected)


@every_cupy
def test_binary_uint8_vectors_are_the_same_product(cupy: Any) -> None:
    frames = np.random.default_rng(3).integers(0, 2, (5, 1200), np.uint8)
    expected = reference.product(4, frames.view(np.int8), 300)
    product = CupyProduct(1200, 300, 4)
    np.testing.assert_array_equal(product(frames), expected)
    np.testing.assert_array_equal(product(cupy.asarray(frames)).get(), expected)


@every_cupy
@storages
def test_real_vectors_and_rows(storage: str, cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32 sums of n terms err by less than n · 2^-24 · Σ|x T|, and sums of whole numbers below 2^24 not at all."""
    product, numpy = CupyProduct(1100, 700, 12, BUDGETS[storage]), NumpyProduct(1100, 700, 12)
    small_slabs(product, monkeypatch)
    np.testing.assert_array_equal(product.matrix(slice(600, 3, -7)), reference.matrix(12, 700, 1100)[600:3:-7])
    vectors = np.random.default_rng(6).standard_normal((9, 1100), np.float32)
    matrix = reference.matrix(12, 700, 1100).astype(np.float64)
    found = product.real(vectors)
    assert found.dtype == np.float32
    bound = 1100 * 2.0**-24 * (np.abs(vectors) @ np.abs(matrix.T))
    assert (np.abs(found - vectors.astype(np.float64) @ matrix.T) <= bound).all()
    whole = np.rint(10 * vectors)
    np.testing.assert_array_equal(product.real(cupy.asarray(whole)).get(), numpy.real(whole))


# ---- streams


@pytest.mark.parametrize("seed", range(30))
def test_any_order_that_the_streams_allow_gives_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls on three streams in turn, buffers of the pool reused at once, nothing waited for until the end."""
    matrix = cached_matrix(4, 600, 2100)
    with installed(Fake(seed)) as fake:
        cupy = fake.module
        products = [CupyProduct(2100, 600, 4, budget) for budget in (None, 0)]
        for product in products:
            small_slabs(product, monkeypatch)
        streams = [cupy.cuda.Stream(non_blocking=True), cupy.cuda.Stream.null, cupy.cuda.Stream()]
        expected, found = [], []
        for number, (stream, product) in enumerate(itertools.product(streams, products)):
            vectors = ternary_of(number, 3, 2100, 0.3)
            expected.append(vectors.astype(np.float32) @ matrix.T)
            with stream:
                found.append((stream, product(cupy.asarray(vectors))))
        assert fake.gpu.synchronised == 0
        for (stream, fields), integers in zip(found, expected, strict=True):
            with stream:
                np.testing.assert_array_equal(fields.get(), integers)


@functools.cache
def cached_matrix(seed: int, n_outputs: int, n_inputs: int) -> npt.NDArray[np.float32]:
    return reference.matrix(seed, n_outputs, n_inputs).astype(np.float32)


def test_a_slab_is_made_while_the_one_before_is_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 x 3 slabs: one is ahead, on a stream of its own; sums begin anew in each row of slabs and are then added to."""
    added = []
    multiply = cublas.int8_product

    def watched(*arguments: Any, **sizes: Any) -> None:
        added.append(sizes["add"])
        multiply(*arguments, **sizes)

    monkeypatch.setattr(cupy_product, "int8_product", watched)
    with installed(Fake()) as fake:
        product = CupyProduct(2900, 500, 0, 0)
        small_slabs(product, monkeypatch)
        product(fake.module.asarray(ternary_of(1, 4, 2900, 0.3)))
        log = [entry for entry in fake.gpu.log if entry[0] in ("generate", "gemm")]
        uploads = [stream for name, stream in fake.gpu.log if name == "upload"]
    made, multiplied = ({stream for name, stream in log if name == kind} for kind in ("generate", "gemm"))
    assert [name for name, _ in log] == ["generate", *["generate", "gemm"] * 5, "gemm"]
    assert (len(made), multiplied) == (1, {0})
    assert made != multiplied
    assert uploads == [0, *made], "the table goes up on the stream that needs it, before every slab of every thread"
    assert added == [False, True, True] * 2


def test_buffers_are_not_given_away_if_a_product_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The making of a slab is under way when cuBLAS refuses; what takes the memory next must come after it."""
    for seed in range(10):
        with installed(Fake(seed)) as fake:
            cupy = fake.module
            product = CupyProduct(2048, 512, 0, 0)
            small_slabs(product, monkeypatch)
            refused = SimpleNamespace(gemmEx=lambda *arguments: 1 / 0)
            with monkeypatch.context() as patch:
                patch.setattr(cupy.cuda, "cublas", refused)
                try:
                    product(cupy.asarray(ternary_of(1, 4, 2048, 0.3)))
                except ZeroDivisionError:
                    pass
                else:
                    pytest.fail("the fault was hidden")
            zeros = [cupy.zeros(256 * 1024, np.int8) for _ in range(4)]
            assert not any(array.get().any() for array in zeros)


@every_cupy
@storages
def test_two_threads_at_once(storage: str, cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    product = CupyProduct(1500, 600, 5, BUDGETS[storage])
    small_slabs(product, monkeypatch)
    batches = [ternary_of(seed, 15, 1500, 0.3) for seed in range(8)]

    def call(vectors: Ternary) -> npt.NDArray[np.int32]:
        with cupy.cuda.Stream(non_blocking=True):
            found: npt.NDArray[np.int32] = product(vectors)
            return found

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(call, batches))
    for fields, vectors in zip(found, batches, strict=True):
        np.testing.assert_array_equal(fields, reference.product(5, vectors, 600))


# ---- plan and refusals


def test_the_plan_says_where_the_matrix_is() -> None:
    with installed(Fake(free_bytes=2_000_000)):
        assert CupyProduct(1000, 990, 0).plan.why == (
            "999,936 bytes of int8 fit half of the GPU's free memory, 1,000,000 bytes"  # 1008 columns x 992 rows
        )
        plan = CupyProduct(1000, 1000, 0).plan
        assert (plan.backend, plan.storage, plan.stored_bytes) == ("cupy", "procedural", 0)
        assert plan.why == "1,016,064 bytes of int8 do not fit half of the GPU's free memory, 1,000,000 bytes"
        plan = CupyProduct(1000, 990, 0, 999_936).plan
        assert (plan.storage, plan.stored_bytes) == ("stored", 999_936)
        assert plan.why == "999,936 bytes of int8 fit the budget, 999,936 bytes"
        assert CupyProduct(1000, 990, 0, 999_935).plan.storage == "procedural"


def test_slabs_grow_with_the_cache() -> None:
    """Two slabs share the L2 cache where that is large enough for slabs that keep the host ahead."""
    for l2_bytes, slab_bytes in ((1 << 28, 1 << 27), (1 << 22, 1 << 26)):
        with installed(Fake(l2_bytes=l2_bytes)):
            assert CupyProduct(10, 10, 0, 0)._slab_bytes == slab_bytes


def test_slabs_cover_the_matrix() -> None:
    slabs = cut(2_500_000, 1_000_000, 16384, 1 << 26)
    assert slabs[0] == Slab(0, 16384, 0, 4096)
    assert slabs[1] == Slab(0, 16384, 4096, 4096)
    assert slabs[244] == Slab(0, 16384, 999_424, 576)
    assert slabs[-1] == Slab(152 * 16384, 9632, 999_424, 576)
    assert sum(slab.size for slab in slabs) == 2_500_000 * 1_000_000
    assert max(slab.size for slab in slabs) == 1 << 26
    assert cut(16, 1_000_000, 16384, 1 << 20) == [
        Slab(0, 16, first, min(65536, 1_000_000 - first)) for first in range(0, 1_000_000, 65536)
    ]
    assert cut(1 << 20, 16, 1 << 22, 1 << 20)[0] == Slab(0, 1024, 0, 16)


@pytest.mark.parametrize("budget", [-1, "1", True, float("nan")])
def test_an_impossible_budget_is_refused(budget: Any) -> None:
    expected = "memory_budget_bytes must be a number ≥ 0, bytes, or None for half of the GPU's free memory; got "
    with installed(Fake()), pytest.raises(ValueError, match=expected):
        CupyProduct(3, 3, 0, budget)


def test_the_backend_is_taken_only_when_asked_for() -> None:
    with installed(Fake()):
        assert make_product(5000, 5000, 0).plan.backend != "cupy"
        assert make_product(5000, 5000, 0, backend="cupy").plan.backend == "cupy"
        with pytest.raises(ValueError, match="n_outputs must be an int from 1 to 2,147,483,648; got 0"):
            make_product(3, 0, 0, backend="cupy")


def test_an_array_on_another_gpu_is_refused() -> None:
    with installed(Fake()) as fake:
        vectors = fake.module.asarray(np.ones((1, 3), np.int8))
        vectors.device = fake.module.cuda.Device(1)
        with pytest.raises(ValueError, match="on GPU 0, where this product computes; got 'an array on GPU 1'"):
            CupyProduct(3, 3, 0)(vectors)


def without_cupy(monkeypatch: pytest.MonkeyPatch, fake: Fake) -> str:
    load = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "cupy":
            raise ModuleNotFoundError("No module named 'cupy'", name="cupy")
        return load(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "cupy")
    monkeypatch.setattr(builtins, "__import__", missing)
    return 'CuPy is not installed (pip install "optical_dfa[cupy-cuda12]", or cupy-cuda13 for a CUDA 13 driver)'


def broken_cupy(monkeypatch: pytest.MonkeyPatch, fake: Fake) -> str:
    load = builtins.__import__

    def broken(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "cupy":
            raise ImportError("libnvrtc is too old")
        return load(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "cupy")
    monkeypatch.setattr(builtins, "__import__", broken)
    return "CuPy cannot be imported: libnvrtc is too old"


def no_driver(monkeypatch: pytest.MonkeyPatch, fake: Fake) -> str:
    runtime = fake.module.cuda.runtime

    def refuse() -> int:
        raise runtime.CUDARuntimeError("cudaErrorInsufficientDriver")

    monkeypatch.setattr(runtime, "getDeviceCount", refuse)
    return "no CUDA device can be used: cudaErrorInsufficientDriver"


def no_device(monkeypatch: pytest.MonkeyPatch, fake: Fake) -> str:
    monkeypatch.setattr(fake.module.cuda.runtime, "getDeviceCount", lambda: 0)
    return "no CUDA device is visible"


def old_device(monkeypatch: pytest.MonkeyPatch, fake: Fake) -> str:
    monkeypatch.setattr(fake.module.cuda.Device, "compute_capability", "60")
    return "the GPU has compute capability 6.0, and int8 products need 6.1"


def no_cublas(monkeypatch: pytest.MonkeyPatch, fake: Fake) -> str:
    class Cuda(SimpleNamespace):
        @property
        def cublas(self) -> Any:
            raise ImportError("libcublas.so.12: no such file")

    cuda = fake.module.cuda
    kept = {name: value for name, value in vars(cuda).items() if name != "cublas"}
    monkeypatch.setattr(fake.module, "cuda", Cuda(**kept))
    return "cuBLAS cannot be loaded: libcublas.so.12: no such file"


@pytest.mark.parametrize("lack", [without_cupy, broken_cupy, no_driver, no_device, old_device, no_cublas])
def test_without_what_it_needs(lack: Callable[[pytest.MonkeyPatch, Fake], str]) -> None:
    # undone inside `installed`: undone after it, the fake would stay among the modules
    with installed(Fake()) as fake, pytest.MonkeyPatch.context() as monkeypatch:
        reason = lack(monkeypatch, fake)
        assert why_unavailable() == reason
        with pytest.raises(ValueError, match="backend 'cupy' cannot be used") as refusal:
            make_product(500, 500, 0, backend="cupy")
        assert str(refusal.value) == f"backend 'cupy' cannot be used: {reason}; take backend 'auto' or 'numpy'"
        assert make_product(500, 500, 0).plan.backend != "cupy"
