"""The int8 product of cuBLAS: CuPy's `@` would give int8 for int8, and overflow.

`gemmEx` takes raw pointers and speaks of matrices in column-major order, where a row-major (rows, columns) array is its
own transpose: (columns, rows), with the length of a row as its leading dimension. What is asked for here is

    sums (n, m) = vectors (n, k) · slab (m, k)ᵀ, all row-major,

which in column-major order is sums (m, n) = slab (k, m)ᵀ · vectors (k, n): the first operand transposed, the second
not ("TN", both with k contiguous), the one arrangement that cuBLAS' integer tensor-core kernels take.
"""

from typing import Any

import numpy as np

ALIGNMENT = 16
"""Multiple, in entries, of m, k and the leading dimensions, and of bytes of the pointers. cuBLAS requires 4."""

VECTORS = 32
"""Multiple of n. PyTorch's `torch._int_mm`, the same cuBLAS product, asks for more than 16, in multiples of 8."""

# cudaDataType and cublasComputeType_t. CuPy's enumeration has no 32-bit integers.
CUDA_R_8I = 3
CUDA_R_32I = 10
CUBLAS_COMPUTE_32I = 72
CUBLAS_OP_N, CUBLAS_OP_T = 0, 1
CUBLAS_GEMM_DEFAULT = -1

# Read by the call itself, on the host: with 32-bit integer arithmetic the factors are int32 too.
_ZERO, _ONE = np.zeros(1, np.int32), np.ones(1, np.int32)
_ZERO_ADDRESS, _ONE_ADDRESS = _ZERO.ctypes.data, _ONE.ctypes.data


def padded(size: int, multiple: int = ALIGNMENT) -> int:
    """The next multiple, `size` itself included."""
    return -(-size // multiple) * multiple


def int8_product(
    cublas: Any,
    handle: int,
    *,
    sums: int,
    slab: int,
    vectors: int,
    m: int,
    n: int,
    k: int,
    slab_stride: int,
    vectors_stride: int,
    add: bool,
) -> None:
    """Enqueue sums = vectors · slabᵀ, or add it to the sums, on CuPy's current stream. Exact: int32 sums of int8.

    Args:
        cublas: module with `gemmEx`, CuPy's.
        handle: of cuBLAS, for the current device and thread.
        sums: address of int32 (n, m), row-major without gaps.
        slab: address of int8 (m, k), rows `slab_stride` apart.
        vectors: address of int8 (n, k), rows `vectors_stride` apart.
        m: rows of the slab, a multiple of `ALIGNMENT`.
        n: vectors, a multiple of `VECTORS`.
        k: columns of the slab, a multiple of `ALIGNMENT`.
        slab_stride: entries from row to row of the slab, a multiple of `ALIGNMENT`.
        vectors_stride: entries from vector to vector, a multiple of `ALIGNMENT`.
        add: to what `sums` holds; False: overwrite that.
    """
    cublas.gemmEx(
        handle,
        CUBLAS_OP_T,
        CUBLAS_OP_N,
        m,
        n,
        k,
        _ONE_ADDRESS,
        slab,
        CUDA_R_8I,
        slab_stride,
        vectors,
        CUDA_R_8I,
        vectors_stride,
        _ONE_ADDRESS if add else _ZERO_ADDRESS,
        sums,
        CUDA_R_32I,
        m,
        CUBLAS_COMPUTE_32I,
        CUBLAS_GEMM_DEFAULT,
    )
