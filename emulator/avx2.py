"""The steps of the Numba product on AVX2: registers of 8 x 32 bits.

**Products.** `vpmaddubsw` multiplies unsigned bytes (T + 128) with signed bytes (four inputs, the same for all lanes)
and adds two neighbouring products into 16 bits, where it saturates. Here it cannot: |x| ≤ 1 and 1 ≤ T + 128 ≤ 255, so a
pair is at most 510, and up to `PANEL_WORDS` = 64 of them, 32,640, are below 2^15 = 32,768 in any order: 16 bits hold
the sums of a whole tile. At its end `vpmaddwd` with ones adds two neighbouring 16-bit sums into 32 bits, and from there
on x·(T + 128) is exact modulo 2^32, as in `vnni`. This rests on inputs in {-1, 0, 1}: others would saturate silently.
CPUs with `vpdpbusd` on such registers, which is AVX-VNNI or AVX-512 VNNI, use it as `vnni` does: measured 1.2 x at a
batch of 64, 1.3 x at 256.

**Table.** `vpshufb` looks 32 bytes up in a table of 16, by the low four bits of an index; it gives zero where the
index has its highest bit. T is antisymmetric, TABLE[255 - b] = -TABLE[b], so t(j) = TABLE[128 + j], 0 ≤ j < 128, and a
sign do. t grows slowly at first: below j = 96, t(j + 1) - t(j) is 0 or 1 for even j, so
t(j) = (t(j & ~1) + t(j | 1) + (j & 1)) >> 1, which is what `vpavgb` computes, and one entry in a table does for two j.
That leaves 3 tables of 16 for j < 96 and 2 for the rest, where the first three give t(j - 32); all are differences to
the one 16 entries before, so a plain sum selects (a look-up by j - 16 c gives zero below 16 c). These are 21
instructions for 32 bytes. With 8 tables of t they are 27: measured 15 % slower at batch 1, 5 % at 64.

**Registers.** 6 vectors times 2 registers of outputs are 12 accumulators; with 2 registers of T, one of inputs and one
of products they fill the register file of 16 without spilling.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from optical_dfa.emulator.matrix import TABLE
from optical_dfa.emulator.numba_support import instruction_set
from optical_dfa.emulator.simd import (
    I8,
    I16,
    I32,
    REGISTERS,
    call,
    constant,
    multiplication,
    tile_maker,
    unchanged,
    vpdpbusd,
)

LANES = 8
TILE_OUTPUTS = REGISTERS * LANES
"""Rows of T in a tile."""

PANEL_WORDS = ((1 << 15) - 1) // (2 * 255)
"""64 words of a row in a tile: as many as 16-bit sums hold."""

MANY, SOME = 6, 2
"""Vectors that the micro-kernels take at once; one at a time is left of a batch."""

_WORDS = ir.VectorType(I32, LANES)
_PAIRS = ir.VectorType(I16, 2 * LANES)
_BYTES = ir.VectorType(I8, 4 * LANES)


def _tables() -> list[npt.NDArray[np.uint8]]:
    t = TABLE[128:].astype(np.int64)
    halves = (t[0:96:2] + t[1:96:2] + 1).reshape(3, 16)  # 1, and 254 in `_look_up`: the mean is t + 128
    ends = t[96:].reshape(2, 16) - t[64:96].reshape(2, 16)
    tables = [halves[0], *np.diff(halves, axis=0), ends[0], ends[1] - ends[0]]
    return [table.astype(np.uint8) for table in tables]  # modulo 2^8


_HALVES_0, _HALVES_1, _HALVES_2, _END_0, _END_1 = (
    ir.Constant(_BYTES, [int(entry) for entry in table] * (LANES // 4)) for table in _tables()
)


def _look_up(builder: Any, index: Any) -> Any:
    def entry(table: Any, place: Any, first: int) -> Any:
        """Of a table of 16 whose entry 0 is at `first`; zero below that, modulo 2^8."""
        shifted = builder.sub(place, constant(_BYTES, first)) if first else place
        return call(builder, "llvm.x86.avx2.pshuf.b", _BYTES, table, shifted)

    def mean(a: Any, b: Any) -> Any:
        """(a + b + 1) >> 1 without overflow: what LLVM takes for `vpavgb`."""
        wide = ir.VectorType(I16, 4 * LANES)
        total = builder.add(builder.add(builder.zext(a, wide), builder.zext(b, wide)), constant(wide, 1))
        return builder.trunc(builder.lshr(total, constant(wide, 1)), _BYTES)

    negative = builder.sext(builder.icmp_signed(">", index, constant(_BYTES, -1)), _BYTES)  # T is, for b < 128
    place = builder.xor(index, negative)  # 128 + j
    half = builder.lshr(place, constant(_BYTES, 1))  # 64 + j // 2
    halves = builder.add(entry(_HALVES_0, half, 0), entry(_HALVES_1, half, 64 + 16))
    halves = builder.add(halves, entry(_HALVES_2, half, 64 + 32))
    size = mean(halves, builder.or_(place, constant(_BYTES, 254)))
    size = builder.add(size, builder.add(entry(_END_0, place, 128 + 96), entry(_END_1, place, 128 + 112)))
    return builder.sub(builder.xor(size, negative), negative)  # 128 ± t(j)


def _vpmaddubsw(builder: Any, sums: Any, entries: Any, inputs: Any) -> Any:
    return builder.add(sums, call(builder, "llvm.x86.avx2.pmadd.ub.sw", sums.type, entries, inputs))


def _widened(builder: Any, sums: Any) -> Any:
    return call(builder, "llvm.x86.avx2.pmadd.wd", _WORDS, sums, constant(sums.type, 1))


_PRODUCTS: Any = (_PAIRS, _vpmaddubsw, _widened) if instruction_set() == "AVX2" else (_WORDS, vpdpbusd, unchanged)

make_tile = tile_maker(LANES, _look_up)
multiply_many, multiply_some, multiply_one = (
    multiplication(n_vectors, LANES, *_PRODUCTS) for n_vectors in (MANY, SOME, 1)
)
