"""The Numba backend gives the integers of the reference; where it cannot run, `auto` is NumPy and `numba` is refused.

No test is skipped for want of Numba or of the CPU's instructions: `numba_product` then checks the refusal and hands out
what `auto` gives instead.
"""

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from fresh import ROOT, interpreter, ternary_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optical_dfa.emulator import NumbaProduct, NumpyProduct, make_product, numba_support, reference
from optical_dfa.emulator import numba_product as module
from optical_dfa.emulator.matrix import EXACT_NONZEROS, UNIT
from optical_dfa.emulator.numba_support import instruction_set, why_no_product, why_unavailable
from optical_dfa.emulator.product import SMALL_ENTRIES, Product

REFUSAL = r"backend 'numba' cannot be used: .+; take backend 'auto' or 'numpy'"
Ternary = npt.NDArray[np.int8]


def cannot_run_here() -> bool:
    """Whether the backend is unavailable; if so, that asking for it is refused and `auto` does without."""
    if why_no_product() is None:
        return False
    with pytest.raises(ValueError, match=REFUSAL):
        make_product(500, 500, 0, backend="numba")
    automatic = make_product(500, 500, 0)
    assert automatic.plan.backend == "numpy"
    assert automatic.plan.why.endswith(f"; NumPy because {why_no_product()}")
    return True


def numba_product(n_inputs: int, n_outputs: int, seed: int) -> Product:
    return make_product(n_inputs, n_outputs, seed) if cannot_run_here() else NumbaProduct(n_inputs, n_outputs, seed)


def streamed(product: Product, vectors: npt.NDArray[Any], n_outputs: int) -> npt.NDArray[np.int32]:
    """The blocks that `stream` hands out, put together; each entry is handed out once."""
    found = np.zeros((len(vectors), n_outputs), np.int32)
    times = np.zeros(found.shape, int)

    def take(vector: int, row: int, fields: npt.NDArray[np.int32]) -> None:
        place = (slice(vector, vector + fields.shape[0]), slice(row, row + fields.shape[1]))
        assert row % 2 == 0  # both quadratures of a mode are in one block
        found[place] = fields
        times[place] += 1
        fields[:] = -1  # may be done with as one likes

    product.stream(vectors, take)
    assert (times == 1).all()
    return found


@pytest.fixture(autouse=True)
def _availability_is_looked_up_anew() -> Iterator[None]:
    yield
    why_unavailable.cache_clear()


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, int, int, int, float]:
    """n_inputs, n_outputs, batch, seed, sparsity; one of the first three may be large."""
    limits = draw(st.sampled_from([(5000, 70, 30), (70, 5000, 30), (600, 600, 30), (70, 70, 300)]))
    n_inputs, n_outputs, batch = draw(
        st.tuples(*(st.integers(low, high) for low, high in zip((1, 1, 0), limits, strict=True)))
    )
    sparsity = draw(st.sampled_from([0.0, 0.3, 0.9, 0.999, 1.0]))
    return n_inputs, n_outputs, batch, draw(st.integers(0, (1 << 64) - 1)), sparsity


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_integers_are_those_of_the_reference(case: tuple[int, int, int, int, float]) -> None:
    n_inputs, n_outputs, batch, seed, sparsity = case
    vectors = ternary_of(n_inputs * n_outputs + batch, batch, n_inputs, sparsity)
    found = numba_product(n_inputs, n_outputs, seed)(vectors)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, reference.product(seed, vectors, n_outputs))
    np.testing.assert_array_equal(found, NumpyProduct(n_inputs, n_outputs, seed)(vectors))


@pytest.mark.parametrize("seed", [0, 1, (1 << 32) - 1, 1 << 32, (1 << 64) - 1])
@pytest.mark.parametrize(
    ("n_inputs", "n_outputs"),
    [(1, 1), (4, 32), (5, 33), (1023, 255), (1024, 256), (1025, 257), (1028, 31), (4097, 513), (3, 1500)],
)
def test_edges_of_tiles_and_words(n_inputs: int, n_outputs: int, seed: int) -> None:
    vectors = ternary_of(n_inputs, 18, n_inputs, 0.2)
    found = numba_product(n_inputs, n_outputs, seed)(vectors)
    np.testing.assert_array_equal(found, reference.product(seed, vectors, n_outputs))


@pytest.mark.parametrize("batch", [0, 1, 2, 3, 4, 5, 11, 12, 13, 16, 17, 24, 29, 1023, 1024, 1025, 1040])
def test_every_split_of_a_batch(batch: int) -> None:
    vectors = ternary_of(batch, batch, 41, 0.4)
    found = numba_product(41, 50, 3)(vectors)
    assert found.shape == (batch, 50)
    np.testing.assert_array_equal(found, reference.product(3, vectors, 50))


@pytest.mark.parametrize(
    ("n_inputs", "n_outputs", "budget", "kept"),
    [
        (1, 1, 1 << 30, True),
        (10, 1024, 1 << 30, True),
        (16, 16_384, 1 << 30, True),
        (16, 16_385, 1 << 30, False),
        (17, 300, 1 << 30, False),
        (10, 300, 11_999, False),
    ],
)
def test_fields_of_unit_gain_round_the_integers_once(n_inputs: int, n_outputs: int, budget: int, kept: bool) -> None:
    vectors = ternary_of(n_inputs, 37, n_inputs, 0.4)
    expected = reference.product(3, vectors, n_outputs).astype(np.float32) * UNIT
    assert NumpyProduct(n_inputs, n_outputs, 3).fields(vectors).tobytes() == expected.tobytes()
    if cannot_run_here():
        return
    product = NumbaProduct(n_inputs, n_outputs, 3, budget)
    assert product.plan.stored_bytes == (4 * n_inputs * n_outputs if kept else 0)
    assert product.plan.storage == ("stored" if kept else "procedural")
    for given_vectors in (vectors, np.asfortranarray(vectors), vectors[:0]):
        found = product.fields(given_vectors)
        assert found.tobytes() == expected[: len(given_vectors)].tobytes()


def test_more_nonzeros_than_one_float32_sum_can_hold() -> None:
    """The signs of row 0 give a field of 18 million; x·(T + 128) itself passes 2^31 where all inputs are 1."""
    n_inputs = 520_001
    rows = reference.entries(6, np.arange(3)[:, None], np.arange(n_inputs))
    vectors = np.stack([np.where(rows[0] < 0, -1, 1), np.ones(n_inputs), -np.ones(n_inputs)]).astype(np.int8)
    assert np.count_nonzero(vectors[0]) > EXACT_NONZEROS
    expected = vectors.astype(np.int64) @ rows.astype(np.int64).T
    assert expected.max() > 1 << 24
    np.testing.assert_array_equal(numba_product(n_inputs, 3, 6)(vectors), expected)


@pytest.mark.parametrize("sign", [1, -1])
def test_sums_beyond_int32_on_the_way_do_not_matter(sign: int) -> None:
    """In the widest matrix the sum with the unsigned operand T + 128 passes 2^31, and 128 Σx is 2^31: both wrap."""
    n_inputs = 1 << 24
    row = int(reference.entries(0, 0, np.arange(n_inputs)).sum(dtype=np.int64))
    assert row + 128 * n_inputs > 1 << 31
    found = numba_product(n_inputs, 1, 0)(np.full((1, n_inputs), sign, np.int8))
    assert found.tolist() == [[sign * row]]


def test_wide_vectors_go_in_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = ternary_of(1, 30, 5003, 0.5)
    vectors[:, 1024:2048] = 0  # a slab of which nothing is used
    expected = reference.product(8, vectors, 300)
    for name, value in (("SLAB_BYTES", 1), ("NARROW_SLAB_BYTES", 1), ("BATCHES", (7, 7))):
        monkeypatch.setattr(module, name, value)
        product = numba_product(5003, 300, 8)
        np.testing.assert_array_equal(product(vectors), expected)
        np.testing.assert_array_equal(streamed(product, vectors, 300), expected)


@pytest.mark.parametrize("used", [1, 40, 700, 1100, 1500])
def test_unused_words_are_left_out(used: int) -> None:
    """Words used by some vector, scattered over six tiles: from one, over several to a panel, to all."""
    generator = np.random.default_rng(used)
    vectors = np.zeros((5, 6000), np.int8)
    for word in generator.choice(1500, used, replace=False):
        vectors[generator.integers(5), 4 * word + generator.integers(4)] = generator.choice([-1, 1])
    np.testing.assert_array_equal(numba_product(6000, 290, 2)(vectors), reference.product(2, vectors, 290))


@pytest.mark.parametrize("n_inputs", [1500, 1501])
def test_vectors_of_any_layout(n_inputs: int) -> None:
    vectors = ternary_of(5, 6, n_inputs, 0.5)
    product = numba_product(n_inputs, 400, 8)
    expected = reference.product(8, vectors, 400)
    unaligned = np.zeros(vectors.size + 1, np.int8)[1:].reshape(vectors.shape)
    unaligned[:] = vectors
    read_only = vectors.copy()
    read_only.setflags(write=False)
    for layout in (np.asfortranarray(vectors), unaligned, read_only, np.repeat(vectors, 2, axis=1)[:, ::2]):
        np.testing.assert_array_equal(product(layout), expected)
    np.testing.assert_array_equal(product(vectors[::-1])[::-1], expected)


def test_binary_uint8_vectors_are_the_same_product() -> None:
    frames = np.random.default_rng(3).integers(0, 2, (5, 1200), np.uint8)
    found = numba_product(1200, 300, 4)(frames)
    np.testing.assert_array_equal(found, reference.product(4, frames.view(np.int8), 300))


def test_rows_and_real_vectors_are_those_of_numpy() -> None:
    product, numpy = numba_product(1100, 700, 12), NumpyProduct(1100, 700, 12)
    vectors = np.random.default_rng(6).standard_normal((9, 1100), np.float32)
    np.testing.assert_array_equal(product.matrix(slice(600, 3, -7)), reference.matrix(12, 700, 1100)[600:3:-7])
    np.testing.assert_array_equal(product.real(vectors), numpy.real(vectors))


@pytest.fixture
def any_work_is_worth_a_thread(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    monkeypatch.setattr(module, "THREAD_WORK", 1)

    def choose(threads: int) -> None:
        monkeypatch.setattr(module, "n_threads", lambda: threads)

    return choose


def test_threads_do_not_matter(any_work_is_worth_a_thread: Callable[[int], None]) -> None:
    vectors = ternary_of(2, 20, 900, 0.3)
    expected = reference.product(5, vectors, 3000)
    for threads in (1, 2, 3, 8, 50):
        any_work_is_worth_a_thread(threads)
        product = numba_product(900, 3000, 5)
        np.testing.assert_array_equal(product(vectors), expected)
        np.testing.assert_array_equal(streamed(product, vectors, 3000), expected)


def test_two_threads_at_once(any_work_is_worth_a_thread: Callable[[int], None]) -> None:
    any_work_is_worth_a_thread(2)
    product = numba_product(700, 2000, 5)
    batches = [ternary_of(seed, 15, 700, 0.3) for seed in range(12)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(product, batches))
    for fields, vectors in zip(found, batches, strict=True):
        np.testing.assert_array_equal(fields, reference.product(5, vectors, 2000))


def test_threads_of_torch_do_not_matter() -> None:
    vectors = ternary_of(2, 20, 900, 0.3)
    expected = reference.product(5, vectors, 1000)
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            torch.ones(300, 300) @ torch.ones(300, 300)  # its threads are running
            np.testing.assert_array_equal(numba_product(900, 1000, 5)(vectors), expected)
    finally:
        torch.set_num_threads(before)


AFTER_FORK = """
import os, signal, sys
import numpy as np, torch
from optical_dfa.devices import open_device
from optical_dfa.emulator import make_product, numba_product, reference
numba_product.THREAD_WORK, numba_product.n_threads = 1, lambda: 3
vectors = np.random.default_rng(0).integers(-1, 2, (9, 300), np.int8)
product, expected = make_product(300, 900, 1), reference.product(1, vectors, 900)
assert np.array_equal(product(vectors), expected)  # the threads of the parent exist from here on
device = open_device("emulator", n_inputs=300, n_outputs=900, photometry={"signal_e_per_feature": 1.0})
start = device.state_dict()
def project():
    device.load_state_dict(start)
    return device.project(vectors)
images = project()
if not (child := os.fork()):
    signal.alarm(60)
    os._exit(0 if np.array_equal(product(vectors), expected) and np.array_equal(project(), images) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "child of os.fork"
class Data(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, i): return product(vectors), project()
workers = torch.utils.data.DataLoader(Data(), batch_size=None, num_workers=2, multiprocessing_context="fork")
for fields, measured in workers:
    assert np.array_equal(fields, expected) and np.array_equal(measured, images), "worker of a DataLoader"
assert np.array_equal(product(vectors), expected) and np.array_equal(project(), images), "parent"
print(product.plan.backend)
"""


def run(program: str, environment: dict[str, str] | None = None, cwd: Path = ROOT) -> str:
    return interpreter("-c", program, environment=environment, cwd=cwd)


def test_a_forked_process_computes_the_same() -> None:
    assert run(AFTER_FORK).split()[-1] == ("numpy" if cannot_run_here() else "numba")


COMPILE = """
import numpy as np
from optical_dfa.emulator import NumbaProduct
NumbaProduct(300, 300, 1)(np.ones((2, 300), np.int8))
from optical_dfa.emulator import numba_kernels as kernels
from optical_dfa.emulator.numba_camera import expose
camera, two = np.zeros(6, np.float32), np.zeros((1, 2), np.float32)
words = np.zeros(1, np.uint32)
field, image = np.zeros((1, 2), np.int32), np.zeros((1, 1), np.uint8)
expose(field, None, np.zeros(1, int), two, two, None, None, words, words, camera, None, None, None, 0, image)
for kernel in (kernels.pack, kernels.multiply, expose):
    print(sum(kernel.stats.cache_hits.values()), sum(kernel.stats.cache_misses.values()))
"""


def test_compiled_kernels_are_kept_until_a_source_changes(tmp_path: Path) -> None:
    """In a copy of the package. Numba's own cache would notice an edit in the file of a kernel, and in no other."""
    if cannot_run_here():
        return
    shutil.copytree(ROOT / "optical_dfa", tmp_path / "optical_dfa", ignore=shutil.ignore_patterns("__pycache__"))
    cache = tmp_path / "cache"

    def compile_in_copy() -> list[str]:
        return run(COMPILE, {"NUMBA_CACHE_DIR": str(cache)}, tmp_path).splitlines()

    assert compile_in_copy() == ["0 1"] * 3
    assert compile_in_copy() == ["1 0"] * 3
    with open(tmp_path / "optical_dfa" / "emulator" / "simd.py", "a") as file:  # parts of all kernels, and no kernel
        file.write("# edited\n")
    assert compile_in_copy() == ["0 1"] * 3
    assert len(list((cache / "optical_dfa").iterdir())) == 2


def test_the_cache_has_a_folder_for_each_edit_of_any_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if cannot_run_here():
        return
    from optical_dfa.emulator import numba_cache

    folder = shutil.copytree(ROOT / "optical_dfa" / "emulator", tmp_path / "emulator")
    sources = sorted(folder.glob("*.py"))
    assert {"simd.py", "vnni.py", "numba_kernels.py", "normals.py"} <= {file.name for file in sources}
    unedited = numba_cache.source_key()
    monkeypatch.setattr(numba_cache, "__file__", str(folder / "numba_cache.py"))
    keys = [numba_cache.source_key.__wrapped__()]
    assert keys == [unedited]
    for source in sources:
        source.write_bytes(source.read_bytes() + b"# edited\n")
        keys.append(numba_cache.source_key.__wrapped__())
    assert len(set(keys)) == 1 + len(sources)


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    if cannot_run_here():
        return
    blocked = tmp_path / "file"
    blocked.touch()
    assert run(COMPILE, {"NUMBA_CACHE_DIR": str(blocked)}).splitlines() == ["0 1"] * 3
    assert run(COMPILE, {"NUMBA_CACHE_DIR": str(blocked)}).splitlines() == ["0 1"] * 3


def test_nothing_is_compiled_before_the_first_product() -> None:
    if cannot_run_here():
        return
    program = "from optical_dfa.emulator import NumbaProduct, numba_product\nNumbaProduct(300, 300, 1)\n"
    program += "from optical_dfa.emulator import numba_kernels as k\nprint(k.pack.signatures, k.multiply.signatures)"
    assert run(program).split() == ["[]", "[]"]


def lacking(monkeypatch: pytest.MonkeyPatch, what: str) -> str:
    """Take away what the backend needs; returns the words for it."""
    why_unavailable.cache_clear()
    if what == "numba":
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        return 'Numba is not installed (pip install "optical_dfa[fast]")'
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.delenv("NUMBA_DISABLE_JIT", raising=False)
    if what == "jit":
        monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
        return "the environment variable NUMBA_DISABLE_JIT switches Numba off"
    monkeypatch.setattr(numba_support, "_cpu_features", lambda: {"avx", "fma"})
    return "the CPU, as Numba is set to use it, lacks avx2"


@pytest.mark.parametrize("what", ["numba", "jit", "avx2"])
def test_without_what_it_needs(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    reason = lacking(monkeypatch, what)
    with pytest.raises(ValueError, match=REFUSAL) as refusal:
        make_product(500, 500, 0, backend="numba")
    assert str(refusal.value) == f"backend 'numba' cannot be used: {reason}; take backend 'auto' or 'numpy'"
    plan = make_product(500, 500, 0).plan
    assert plan.backend == "numpy"
    assert plan.why == f"250,000 bytes of int8 fit the budget of 1,073,741,824 bytes; NumPy because {reason}"


@pytest.mark.parametrize(
    "setting",
    [
        {"NUMBA_CPU_NAME": "generic"},
        {"NUMBA_CPU_FEATURES": "+avx,-avx2"},
        {"NUMBA_ENABLE_AVX": "0"},
        {"NUMBA_DISABLE_JIT": "1"},
    ],
    ids=str,
)
def test_settings_of_numba_that_forbid_the_instructions(
    monkeypatch: pytest.MonkeyPatch, setting: dict[str, str]
) -> None:
    monkeypatch.delenv("NUMBA_CPU_FEATURES", raising=False)
    program = "import numpy as np\nfrom optical_dfa.emulator import make_product\np = make_product(500, 500, 0)\n"
    program += "p(np.ones((1, 500), np.int8))\nprint(p.plan.backend)"
    assert run(program, setting).split() == ["numpy"]


def test_choice_of_the_backend() -> None:
    usable = not cannot_run_here()
    fastest = make_product(500, 500, 0).plan
    assert fastest.backend == ("numba" if usable else "numpy")
    if usable:
        assert (fastest.storage, fastest.stored_bytes) == ("procedural", 0)
        assert fastest.why == (
            f"making T anew in a core's cache is faster than reading it ({instruction_set()}); "
            "real vectors are multiplied by NumPy: T stored"
        )
    asked = make_product(500, 500, 0, backend="numpy").plan
    assert (asked.backend, asked.storage) == ("numpy", "stored")
    assert asked.why.endswith("; NumPy was asked for")


def test_small_stored_matrices_stay_with_numpy() -> None:
    feedback = make_product(8, 512, 0).plan
    assert (feedback.backend, feedback.storage) == ("numpy", "stored")
    assert feedback.why.endswith("; NumPy is faster up to 4,096 entries")
    larger = "numpy" if cannot_run_here() else "numba"
    assert make_product(1, SMALL_ENTRIES, 0).plan.backend == "numpy"
    assert make_product(1, SMALL_ENTRIES + 1, 0).plan.backend == larger
    assert make_product(8, 512, 0, memory_budget_bytes=0).plan.backend == larger
    if larger == "numba":
        assert make_product(8, 512, 0, backend="numba").plan.backend == "numba"


@pytest.mark.parametrize("backend", ["cuda", "Numba", "", None, 1, ["numpy"]])
def test_an_unknown_backend_is_refused(backend: Any) -> None:
    with pytest.raises(ValueError, match="backend must be one of auto, numpy, numba, cupy; got") as refusal:
        make_product(3, 3, 0, backend=backend)
    assert repr(backend) in str(refusal.value)


@pytest.mark.parametrize("backend", ["auto", "numpy", "numba"])
def test_an_impossible_geometry_is_refused(backend: Any) -> None:
    with pytest.raises(ValueError, match="n_outputs must be an int from 1 to 2,147,483,648; got 0"):
        make_product(3, 0, 0, backend=backend)
