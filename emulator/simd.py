"""What the instruction sets of the Numba product share: the two steps that a compiler does not find by itself.

`tile_maker` writes a tile of T + 128, `multiplication` adds its products with some vectors to their sums. Both work on
registers whose 32-bit lanes are neighbouring outputs (rows of T); a tile is two registers of outputs, laid out
[word][output], so every load is one full register. Loads promise four bytes of alignment: that costs nothing at an
aligned address and is no fault at another.

An instruction set (`vnni`, `avx2`) gives the number of lanes, how bytes are looked up in `matrix.TABLE` and how
products are added up, and says why that is exact. Registers are spelt out because LLVM's own vectoriser takes 256 bits
where it could have 512.

On a CPU that lacks the instructions, LLVM ends the process when it compiles them: ask `numba_support` first.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

REGISTERS = 2
"""Registers of outputs in a tile."""

I8, I16, I32, _I64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)


def constant(kind: Any, value: int) -> Any:
    """The same value in every lane of a vector type."""
    return ir.Constant(kind, [value] * kind.count)


def call(builder: Any, name: str, result: Any, *operands: Any) -> Any:
    """Call LLVM's intrinsic of that name."""
    kind = ir.FunctionType(result, [operand.type for operand in operands])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), operands)


def vpdpbusd(builder: Any, sums: Any, entries: Any, inputs: Any) -> Any:
    """Add to each lane the four products of unsigned bytes (entries) with signed bytes (inputs), modulo 2^32."""
    words = (builder.bitcast(operand, sums.type) for operand in (entries, inputs))
    return call(builder, f"llvm.x86.avx512.vpdpbusd.{32 * sums.type.count}", sums.type, sums, *words)


def unchanged(builder: Any, sums: Any) -> Any:
    """Sums that are words already."""
    return sums


def _splat(builder: Any, word: Any, kind: Any) -> Any:
    """The same word in every lane."""
    nowhere = ir.Constant(kind, ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(nowhere, word, I32(0)), nowhere, constant(kind, 0))


def _address(context: Any, builder: Any, array_type: Any, array: Any) -> Any:
    """Address of the first element of an array, as an integer."""
    return builder.ptrtoint(context.make_array(array_type)(context, builder, array).data, _I64)


def _pointer(builder: Any, address: Any, byte_offset: Any, kind: Any) -> Any:
    return builder.inttoptr(builder.add(address, byte_offset), kind.as_pointer())


def _bytes(builder: Any, count: Any, size: int) -> Any:
    return builder.mul(count, _I64(size))


def _load(builder: Any, pointer: Any) -> Any:
    value = builder.load(pointer)
    value.align = 4
    return value


def _store(builder: Any, value: Any, pointer: Any) -> None:
    builder.store(value, pointer).align = 4


def _hash(builder: Any, x: Any, high: Any) -> Any:
    """`hashing.hash_words` after its first step, the exclusive or with the low half of the key."""

    def fold(x: Any, shift: int) -> Any:
        return builder.xor(x, builder.lshr(x, constant(x.type, shift)))

    def times(x: Any, factor: int) -> Any:
        return builder.mul(x, constant(x.type, factor))

    x = builder.add(times(fold(x, 17), 0xED5AD4BB), high)
    x = times(fold(x, 11), 0xAC4C1B51)
    x = times(fold(x, 15), 0x31848BAB)
    return fold(x, 14)


def tile_maker(lanes: int, look_up: Callable[[Any, Any], Any]) -> Any:
    """The step that makes tiles.

    Args:
        lanes: words of a register.
        look_up: of (builder, bytes): each byte b of a register replaced by TABLE[b] + 128.
    """
    words = ir.VectorType(I32, lanes)

    def make_tile(
        typing_context: Any, lows: Any, highs: Any, n_words: Any, first_row: Any, tile: Any
    ) -> tuple[Any, Callable[..., Any]]:
        """Write one tile of T + 128.

        Args:
            typing_context: Numba's.
            lows: uint32, for each word the exclusive or of its column in its tile with the low half of the tile's key.
            highs: uint32, for each word the high half of that key.
            n_words: int64.
            first_row: int64, first of its rows, counted from the first of its 256.
            tile: uint32, to be filled, [word][output].
        """
        signature = types.void(lows, highs, types.int64, types.int64, tile)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _, _, n_words, first_row, _ = arguments
            lows, highs, tile = (_address(context, builder, signature.args[i], arguments[i]) for i in (0, 1, 4))
            # a row starts 256 words after the one before, a power of two: rows and columns share no bit of the counter
            first = _splat(builder, builder.trunc(_bytes(builder, first_row, 256), I32), words)
            rows = [
                builder.add(first, ir.Constant(words, [256 * (lanes * part + lane) for lane in range(lanes)]))
                for part in range(REGISTERS)
            ]
            with cgutils.for_range(builder, n_words) as loop:
                low, high = (
                    _splat(builder, _load(builder, _pointer(builder, half, _bytes(builder, loop.index, 4), I32)), words)
                    for half in (lows, highs)
                )
                for part in range(REGISTERS):
                    index = _hash(builder, builder.xor(rows[part], low), high)
                    entries = look_up(builder, builder.bitcast(index, ir.VectorType(I8, 4 * lanes)))
                    at = builder.add(_bytes(builder, loop.index, 4 * lanes * REGISTERS), _I64(4 * lanes * part))
                    _store(builder, entries, _pointer(builder, tile, at, entries.type))
            return context.get_dummy_value()

        return signature, generate

    return intrinsic(make_tile)


def multiplication(
    n_vectors: int,
    lanes: int,
    accumulator: Any,
    dot: Callable[[Any, Any, Any, Any], Any],
    widen: Callable[[Any, Any], Any],
) -> Any:
    """The micro-kernel for a number of vectors.

    Args:
        n_vectors: vectors that it takes at once.
        lanes: words of a register.
        accumulator: LLVM's type of a register of sums while it passes over a tile.
        dot: of (builder, accumulator, entries, inputs), both 4 x lanes bytes: the accumulator with their products.
        widen: of (builder, accumulator): its sums as `lanes` words of 32 bits.
    """
    words, bytes_ = ir.VectorType(I32, lanes), ir.VectorType(I8, 4 * lanes)

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
            sums: int32, as many a vector as a tile has outputs.
            first_sum: int64, where those of the first vector begin.
        """
        signature = types.void(vectors, types.int64, types.int64, tile, sums, types.int64)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _, first, n_words, _, _, first_sum = arguments
            vectors, tile, sums = (_address(context, builder, signature.args[i], arguments[i]) for i in (0, 3, 4))
            vectors = builder.add(vectors, _bytes(builder, first, 4))
            stride = _bytes(builder, n_words, 4)
            starts = [builder.add(vectors, _bytes(builder, stride, row)) for row in range(n_vectors)]
            cells = [(row, part) for row in range(n_vectors) for part in range(REGISTERS)]
            # variables to begin with; LLVM keeps them in registers
            registers = {cell: cgutils.alloca_once_value(builder, constant(accumulator, 0)) for cell in cells}
            with cgutils.for_range(builder, n_words) as loop:
                at = builder.add(tile, _bytes(builder, loop.index, 4 * lanes * REGISTERS))
                entries = [
                    _load(builder, _pointer(builder, at, _I64(4 * lanes * part), bytes_)) for part in range(REGISTERS)
                ]
                for row in range(n_vectors):
                    word = _load(builder, _pointer(builder, starts[row], _bytes(builder, loop.index, 4), I32))
                    inputs = builder.bitcast(_splat(builder, word, words), bytes_)
                    for part in range(REGISTERS):
                        register = registers[row, part]
                        builder.store(dot(builder, builder.load(register), entries[part], inputs), register)
            sums = builder.add(sums, _bytes(builder, first_sum, 4))
            for row, part in cells:
                place = _pointer(builder, sums, _I64(4 * lanes * (REGISTERS * row + part)), words)
                new = widen(builder, builder.load(registers[row, part]))
                _store(builder, builder.add(_load(builder, place), new), place)
            return context.get_dummy_value()

        return signature, generate

    return intrinsic(multiply)
