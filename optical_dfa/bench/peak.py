"""The limits of the hardware: how many multiply-adds a core can do with all operands in registers.

A ratio of two kernels on one CPU is bounded by the ratio of their instructions, and CPUs differ in it: where a 512-bit
instruction takes the arithmetic units of two 256-bit ones, `vpdpbusd` does four times the multiply-adds of AVX2's FMA,
and the complex field, which is two products, cannot come below half of a G1 that runs at the peak of FMA.
"""

import time
from typing import Any

ACCUMULATORS = 12
"""Independent sums: latency times throughput of these instructions is 8 … 10 on the CPUs of interest, and AVX2 has 16
registers."""

MACS = {"vpdpbusd 512": 64, "fma 512": 16, "fma 256": 8}
"""Multiply-adds of one instruction."""

NEEDS = {
    "vpdpbusd 512": ("avx512f", "avx512vnni"),
    "fma 512": ("avx512f",),
    "fma 256": ("avx2", "fma"),
}
"""CPU features in LLVM's names."""


def peaks(toy: bool) -> dict[str, Any]:
    """Largest rate seen of each instruction, GMAC/s of one thread; None where the CPU or Numba lacks it.

    Args:
        toy: a thousandth of the work, to see that it runs.
    """
    from optical_dfa.emulator.numba_support import why_unavailable

    found: dict[str, Any] = dict.fromkeys(MACS)
    for name in MACS:
        if why_unavailable(NEEDS[name]) is None:
            found[name] = _rate(name, 10_000 if toy else 10_000_000)
    return {"gmacs": found}


def _rate(name: str, steps: int) -> float:
    import numpy as np

    spin = _kernel(name)
    sums = np.zeros(16 * ACCUMULATORS, np.float32)
    spin(sums, 1)
    best = 0.0
    for _ in range(7):
        start = time.process_time()
        spin(sums, steps)
        best = max(best, steps * ACCUMULATORS * MACS[name] / (time.process_time() - start) / 1e9)
    return best


def _kernel(name: str) -> Any:
    """A compiled loop `spin(sums, steps)` of that instruction on `ACCUMULATORS` registers."""
    import numba
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    word = ir.IntType(32) if name.startswith("vpdpbusd") else ir.FloatType()
    lanes = 8 if name.endswith("256") else 16
    register = ir.VectorType(word, lanes)
    instruction = {
        "vpdpbusd 512": "llvm.x86.avx512.vpdpbusd.512",
        "fma 512": "llvm.fma.v16f32",
        "fma 256": "llvm.fma.v8f32",
    }[name]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums, steps = arguments
        step = cgutils.get_or_insert_function(builder.module, ir.FunctionType(register, [register] * 3), instruction)
        data = context.make_array(signature.args[0])(context, builder, sums).data
        places = [
            builder.bitcast(builder.gep(data, [ir.Constant(ir.IntType(64), lanes * number)]), register.as_pointer())
            for number in range(ACCUMULATORS)
        ]

        def load(place: Any) -> Any:
            value = builder.load(place)
            value.align = 4
            return value

        # factors read from memory, so that LLVM knows nothing of them
        factor = load(places[0])
        totals = [cgutils.alloca_once_value(builder, load(place)) for place in places]
        with cgutils.for_range(builder, steps):
            for total in totals:
                value = builder.load(total)
                operands = [value, factor, factor] if word == ir.IntType(32) else [factor, factor, value]
                builder.store(builder.call(step, operands), total)
        for place, total in zip(places, totals, strict=True):
            builder.store(builder.load(total), place).align = 4
        return context.get_dummy_value()

    def loop(typing_context: Any, sums: Any, steps: Any) -> Any:
        return types.void(sums, types.int64), generate

    spin: Any = intrinsic(loop)

    @numba.njit(error_model="numpy")
    def run(sums: Any, steps: Any) -> None:
        spin(sums, steps)

    return run
