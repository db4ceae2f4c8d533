"""The steps of the Numba product on AVX-512 VNNI and VBMI: registers of 16 x 32 bits.

- A table of 256 bytes is four registers; `vpermi2b` looks 64 bytes up in two of them by seven bits, and the eighth bit
  selects between two such results.
- `vpdpbusd` adds to each lane the four products of unsigned bytes (T + 128) with signed bytes (four inputs, the same
  for all lanes). It neither rounds nor saturates, so the sum x·(T + 128) is exact modulo 2^32. Taking off 128·Σx, also
  modulo 2^32, leaves x·T, which int32 holds (`matrix.MAX_INPUTS`).
- 12 vectors times 2 registers of outputs are 24 accumulators; with 2 registers of T and one of inputs they fill the
  register file of 32 without spilling.
"""

from typing import Any

from llvmlite import ir

from optical_dfa.emulator.matrix import TABLE
from optical_dfa.emulator.simd import (
    I8,
    I32,
    REGISTERS,
    call,
    constant,
    multiplication,
    tile_maker,
    unchanged,
    vpdpbusd,
)

LANES = 16
TILE_OUTPUTS = REGISTERS * LANES
"""Rows of T in a tile."""

PANEL_WORDS = 128
"""Words of a row in a tile: 32 x 128 words are 16 KB, which leave room in a core's L1 cache for the inputs that pass
over them. Measured 5 % faster than 256 words and 2 % faster than 64."""

MANY, SOME = 12, 4
"""Vectors that the micro-kernels take at once; one at a time is left of a batch."""

_BYTES = ir.VectorType(I8, 4 * LANES)
_QUARTERS = [ir.Constant(_BYTES, [int(entry) + 128 for entry in quarter]) for quarter in TABLE.reshape(4, 64)]


def _look_up(builder: Any, index: Any) -> Any:
    name = "llvm.x86.avx512.vpermi2var.qi.512"
    below = call(builder, name, _BYTES, _QUARTERS[0], index, _QUARTERS[1])
    above = call(builder, name, _BYTES, _QUARTERS[2], index, _QUARTERS[3])
    return builder.select(builder.icmp_signed("<", index, constant(_BYTES, 0)), above, below)


make_tile = tile_maker(LANES, _look_up)
multiply_many, multiply_some, multiply_one = (
    multiplication(n_vectors, LANES, ir.VectorType(I32, LANES), vpdpbusd, unchanged) for n_vectors in (MANY, SOME, 1)
)
