"""Which backend multiplies: the fastest that can run here, or the one asked for."""

from dataclasses import replace
from typing import Literal, get_args

from optical_dfa.emulator.cupy_product import CupyProduct
from optical_dfa.emulator.matrix import check_geometry
from optical_dfa.emulator.numba_product import NumbaProduct
from optical_dfa.emulator.numba_support import why_no_product
from optical_dfa.emulator.numpy_product import DEFAULT_MEMORY_BUDGET_BYTES, NumpyProduct

Backend = Literal["auto", "numpy", "numba", "cupy"]
Product = NumpyProduct | NumbaProduct | CupyProduct

SMALL_ENTRIES = 1 << 12
"""Stored matrices up to this size stay with NumPy, whose product is over before Numba's has begun.

Measured (docs/decisions/0003-numba-product.md): at a batch of 128, NumPy wins with 2,560 entries, ties with 5,120.
"""


def make_product(
    n_inputs: int,
    n_outputs: int,
    seed: int,
    memory_budget_bytes: int | None = None,
    backend: Backend = "auto",
    ternary: bool = True,
) -> Product:
    """Exact products T·x of one transmission matrix; the integers do not depend on the backend.

    Args:
        n_inputs: columns of T.
        n_outputs: rows of T.
        seed: seed of the matrix, 0 … 2^64-1.
        memory_budget_bytes: NumPy and CuPy store T (int8) if it fits, otherwise make it anew for each product; Numba
            never stores it. None: 1 GiB of main memory, or half of the free memory of a GPU.
        backend: `auto`: Numba if it can run here and the matrix is not small, otherwise NumPy; `numpy`; `numba`;
            `cupy`: on a GPU, only when asked for (docs/decisions/0004-cupy-product.md).
        ternary: vectors will hold -1, 0 and 1 alone. False: whole numbers up to ±63, which Numba cannot multiply
            exactly on CPUs with AVX2 alone.

    Returns:
        A product; its `plan` says what was chosen and why.

    Raises:
        ValueError: for a geometry, seed or backend that is not accepted, or for `numba` or `cupy` where it cannot
            run.
    """
    if not isinstance(backend, str) or backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}; got {backend!r}")
    check_geometry(n_inputs, n_outputs, seed)
    if backend == "cupy":
        return CupyProduct(n_inputs, n_outputs, seed, memory_budget_bytes)
    if memory_budget_bytes is None:
        memory_budget_bytes = DEFAULT_MEMORY_BUDGET_BYTES
    if backend == "numba":
        if not ternary and (lack := why_no_product(ternary)) is not None:
            raise ValueError(f"backend 'numba' cannot be used: {lack}; take backend 'auto' or 'numpy'")
        return NumbaProduct(n_inputs, n_outputs, seed, memory_budget_bytes)
    numpy = NumpyProduct(n_inputs, n_outputs, seed, memory_budget_bytes)
    if backend == "numpy":
        reason = "NumPy was asked for"
    elif numpy.plan.storage == "stored" and numpy.plan.stored_bytes <= SMALL_ENTRIES:
        reason = f"NumPy is faster up to {SMALL_ENTRIES:,} entries"
    elif (lack := why_no_product(ternary)) is not None:
        reason = f"NumPy because {lack}"
    else:
        return NumbaProduct(n_inputs, n_outputs, seed, memory_budget_bytes)
    numpy.plan = replace(numpy.plan, why=f"{numpy.plan.why}; {reason}")
    return numpy
