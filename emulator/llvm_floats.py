"""Single steps of float32 arithmetic as Numba intrinsics, where Python has no word for them.

Each is one correctly rounded operation of IEEE 754 and vectorises. Numba may neither fuse nor reorder anything else, so
a loop built from these gives the same bits in the vectorised body and in the remainder, however it is split.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_Generator = tuple[Any, Callable[..., Any]]


def _fma(typing_context: Any, a: Any, b: Any, c: Any) -> _Generator:

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), generate


fma: Any = intrinsic(_fma)
"""a·b + c, rounded once."""


def _unary(name: str) -> Any:
    def unary(typing_context: Any, a: Any) -> _Generator:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.call(builder.module.declare_intrinsic(name, [ir.FloatType()]), arguments)

        return types.float32(types.float32), generate

    return intrinsic(unary)


square_root = _unary("llvm.sqrt")
nearest = _unary("llvm.nearbyint")
"""Nearest integer, halves to the even one, as a float32."""


def _reinterpretation(source: Any, target: Any) -> Any:
    def reinterpret(typing_context: Any, a: Any) -> _Generator:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], context.get_value_type(target))

        return target(source), generate

    return intrinsic(reinterpret)


bits_of = _reinterpretation(types.float32, types.int32)
float_of = _reinterpretation(types.int32, types.float32)
