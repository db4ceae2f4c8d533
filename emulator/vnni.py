"""The AVX-512 steps of the Numba product, as Numba intrinsics: all that is not a plain loop.

Three steps that a compiler does not find by itself are written here in LLVM's terms, on registers of 16 x 32 bits whose
lanes are 16 neighbouring outputs (rows of T):

1. `make_tile`: the hash of `hashing.hash_words` on 16 counters at once, then the table. A table of 256 bytes is four
   registers; `vpermi2b` looks 64 bytes up in two of them by seven bits, and the eighth bit selects between two such
   results. A word becomes the four unsigned bytes T[o, 4·k4 … 4·k4+3] + 128.
2. `multiply_12`, `multiply_4`, `multiply_1`: `vpdpbusd` adds to each lane the four products of unsigned bytes (T + 128)
   with signed bytes (four inputs, the same for all lanes). It neither rounds nor saturates, so the sum x·(T + 128) is
   exact modulo 2^32. Taking off 128·Σx, also modulo 2^32, leaves x·T, which int32 holds (`matrix.MAX_INPUTS`).
   12 vectors times 2 registers of outputs are 24 accumulators; with 2 registers of T and one of inputs they fill the
   register file of 32 without spilling. The smaller kernels take what is left of a batch.

A tile is laid out [word][32 outputs], so every load is one full register. Loads promise four bytes of alignment: that
costs nothing at an aligned address and is no fault at another.

Registers of 512 bits are spelt out because LLVM's own vectoriser takes 256 on many CPUs. On a CPU that lacks
`numba_product.REQUIRED_FEATURES`, LLVM ends the process when it compiles this: ask `numba_support` first.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
TILE_OUTPUTS = 2 * LANES
"""Rows of T in a tile: two registers."""

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_WORDS = ir.VectorType(_I32, LANES)
_BYTES = ir.VectorType(_I8, 4 * LANES)


def _constant(word: int) -> Any:
    return ir.Constant(_WORDS, [word] * LANES)


def _splat(builder: Any, word: Any) -> Any:
    """The same word in every lane."""
    nowhere = ir.Constant(_WORDS, ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(nowhere, word, ir.Constant(_I32, 0)), nowhere, _constant(0))


def _address(context: Any, builder: Any, array_type: Any, array: Any) -> Any:
    """Address of the first element of an array, as an integer."""
    return builder.ptrtoint(context.make_array(array_type)(context, builder, array).data, _I64)


def _pointer(builder: Any, address: Any, byte_offset: Any, kind: Any) -> Any:
    return builder.inttoptr(builder.add(address, byte_offset), kind.as_pointer())


def _bytes(builder: Any, count: Any, size: int) -> Any:
    return builder.mul(count, ir.Constant(_I64, size))


def _load(builder: Any, pointer: Any, align: int = 4) -> Any:
    value = builder.load(pointer)
    value.align = align
    return value


def _store(builder: Any, value: Any, pointer: Any) -> None:
    builder.store(value, pointer).align = 4


def _hash(builder: Any, x: Any, high: Any) -> Any:
    """`hashing.hash_words` after its first step, the exclusive or with the low half of the key."""

    def fold(x: Any, shift: int) -> Any:
        return builder.xor(x, builder.lshr(x, _constant(shift)))

    x = builder.add(builder.mul(fold(x, 17), _constant(0xED5AD4BB)), high)
    x = builder.mul(fold(x, 11), _constant(0xAC4C1B51))
    x = builder.mul(fold(x, 15), _constant(0x31848BAB))
    return fold(x, 14)


def _look_up(builder: Any, table: list[Any], words: Any) -> Any:
    """Each byte of the words replaced by its entry of the table, four registers of 64 bytes."""
    kind = ir.FunctionType(_BYTES, [_BYTES] * 3)
    permute = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.vpermi2var.qi.512")
    index = builder.bitcast(words, _BYTES)
    below = builder.call(permute, [table[0], index, table[1]])
    above = builder.call(permute, [table[2], index, table[3]])
    is_above = builder.icmp_signed("<", index, ir.Constant(_BYTES, [0] * 4 * LANES))
    return builder.bitcast(builder.select(is_above, above, below), _WORDS)


def _make_tile(
    typing_context: Any, lows: Any, highs: Any, n_words: Any, first_row: Any, table: Any, tile: Any
) -> tuple[Any, Callable[..., Any]]:
    """Write 32 outputs of T + 128.

    Args:
        typing_context: Numba's.
        lows: uint32, for each word the exclusive or of its column in its tile with the low half of the tile's key.
        highs: uint32, for each word the high half of that key.
        n_words: int64.
        first_row: int64, first of the 32 rows, counted from the first of its 256.
        table: uint8 (256,), entries of T + 128 by byte.
        tile: uint32, to be filled, [word][32 outputs].
    """
    signature = types.void(lows, highs, types.int64, types.int64, table, tile)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lows, highs, n_words, first_row, table, tile = arguments
        lows, highs, table, tile = (_address(context, builder, signature.args[i], arguments[i]) for i in (0, 1, 4, 5))
        quarters = [
            _load(builder, _pointer(builder, table, ir.Constant(_I64, 64 * quarter), _BYTES), 1) for quarter in range(4)
        ]
        # a row starts 256 words after the one before, a power of two: rows and columns share no bit of the counter
        first = _splat(builder, builder.trunc(_bytes(builder, first_row, 256), _I32))
        rows = [
            builder.add(first, ir.Constant(_WORDS, [256 * (LANES * half + lane) for lane in range(LANES)]))
            for half in range(2)
        ]
        with cgutils.for_range(builder, n_words) as loop:
            low, high = (
                _splat(builder, _load(builder, _pointer(builder, part, _bytes(builder, loop.index, 4), _I32)))
                for part in (lows, highs)
            )
            for half in range(2):
                words = _look_up(builder, quarters, _hash(builder, builder.xor(rows[half], low), high))
                at = builder.add(_bytes(builder, loop.index, 128), ir.Constant(_I64, 64 * half))
                _store(builder, words, _pointer(builder, tile, at, _WORDS))
        return context.get_dummy_value()

    return signature, generate


def _multiplication(n_vectors: int) -> Any:
    """The micro-kernel for a number of vectors."""

    def multiply(
        typing_context: Any, vectors: Any, first: Any, n_words: Any, tile: Any, sums: Any, first_sum: Any
    ) -> tuple[Any, Callable[..., Any]]:
        """Add x·(T + 128) of one tile to `sums`.

        Args:
            typing_context: Numba's.
            vectors: uint32, four inputs a word.
            first: int64, where the first vector begins; each is followed by the next.
            n_words: int64, words of a vector.
            tile: from `make_tile`.
            sums: int32, 32 a vector.
            first_sum: int64, where those of the first vector begin.
        """
        signature = types.void(vectors, types.int64, types.int64, tile, sums, types.int64)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _, first, n_words, _, _, first_sum = arguments
            vectors, tile, sums = (_address(context, builder, signature.args[i], arguments[i]) for i in (0, 3, 4))
            kind = ir.FunctionType(_WORDS, [_WORDS] * 3)
            dot = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.vpdpbusd.512")
            vectors = builder.add(vectors, _bytes(builder, first, 4))
            stride = _bytes(builder, n_words, 4)
            starts = [builder.add(vectors, _bytes(builder, stride, row)) for row in range(n_vectors)]
            sums = builder.add(sums, _bytes(builder, first_sum, 4))
            cells = [(row, half) for row in range(n_vectors) for half in range(2)]
            places = {
                cell: _pointer(builder, sums, ir.Constant(_I64, 128 * cell[0] + 64 * cell[1]), _WORDS) for cell in cells
            }
            # variables to begin with; LLVM keeps them in registers
            registers = {cell: cgutils.alloca_once_value(builder, _load(builder, places[cell])) for cell in cells}
            with cgutils.for_range(builder, n_words) as loop:
                at = builder.add(tile, _bytes(builder, loop.index, 128))
                entries = [
                    _load(builder, _pointer(builder, at, ir.Constant(_I64, 64 * half), _WORDS)) for half in range(2)
                ]
                for row in range(n_vectors):
                    word = _load(builder, _pointer(builder, starts[row], _bytes(builder, loop.index, 4), _I32))
                    inputs = _splat(builder, word)
                    for half in range(2):
                        register = registers[row, half]
                        builder.store(builder.call(dot, [builder.load(register), entries[half], inputs]), register)
            for cell in cells:
                _store(builder, builder.load(registers[cell]), places[cell])
            return context.get_dummy_value()

        return signature, generate

    return intrinsic(multiply)


make_tile: Any = intrinsic(_make_tile)
multiply_12 = _multiplication(12)
multiply_4 = _multiplication(4)
multiply_1 = _multiplication(1)
