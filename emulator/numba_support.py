"""Whether Numba can run here, and with which instructions, without importing it where the answer is no."""

import functools
import importlib.util
import os
import platform

INSTRUCTION_SETS = {
    "AVX-512 VNNI": ("avx512f", "avx512bw", "avx512vnni", "avx512vbmi"),
    "AVX-512 VNNI without VBMI": ("avx2", "avx512vl", "avx512vnni"),
    "AVX-VNNI": ("avx2", "avxvnni"),
    "AVX2": ("avx2",),
}
"""What the exact product has steps for, the faster first: CPU features in LLVM's names. The first is `vnni`, the others
are `avx2`."""


@functools.cache
def why_unavailable(features: tuple[str, ...]) -> str | None:
    """Why Numba kernels that need these CPU features cannot run here; None if they can. Compiles nothing.

    Args:
        features: in LLVM's names, for instance `avx512vnni`. `fma` is part of every 64-bit ARM.
    """
    if importlib.util.find_spec("numba") is None or importlib.util.find_spec("llvmlite") is None:
        return 'Numba is not installed (pip install "optical_dfa[fast]")'
    if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        return "the environment variable NUMBA_DISABLE_JIT switches Numba off"
    if lacking := [name for name in features if name not in _cpu_features()]:
        return f"the CPU, as Numba is set to use it, lacks {', '.join(lacking)}"
    try:
        import numba  # noqa: F401
    except ImportError as error:  # Numba refuses versions of NumPy newer than itself in this way
        return f"Numba cannot be imported: {error}"
    return None


def instruction_set() -> str:
    """The fastest of `INSTRUCTION_SETS` that can be used here; the last if none can."""
    *faster, last = INSTRUCTION_SETS
    return next((name for name in faster if why_unavailable(INSTRUCTION_SETS[name]) is None), last)


def why_no_product(ternary: bool = True) -> str | None:
    """Why the exact product cannot run on Numba here, with any instruction set; None if it can.

    Args:
        ternary: of vectors of -1, 0 and 1. False: of larger numbers too, which AVX2 alone would saturate (`avx2`).
    """
    chosen = instruction_set()
    if chosen == "AVX2" and not ternary:
        return "AVX2 multiplies ternary vectors alone, and these hold the illumination of the DMD"
    return why_unavailable(INSTRUCTION_SETS[chosen])


def _cpu_features() -> set[str]:
    """Features that Numba compiles for: of this CPU, unless Numba's environment variables say otherwise.

    They are what NUMBA_CPU_FEATURES names, if it is set. A CPU named by NUMBA_CPU_NAME, other than `generic`, does
    not change them: Numba then still asks LLVM for those of this CPU.
    """
    if platform.machine() in ("aarch64", "arm64"):
        return {"fma"}
    chosen = os.environ.get("NUMBA_CPU_FEATURES")
    if platform.machine() not in ("x86_64", "AMD64") or os.environ.get("NUMBA_ENABLE_AVX", "1") == "0":
        return set()
    if chosen is not None:
        return {name[1:] for name in chosen.split(",") if name.startswith("+")}
    if os.environ.get("NUMBA_CPU_NAME", "host").lower() == "generic":
        return set()
    import llvmlite.binding  # loads LLVM: only where Numba is about to be used

    return {name for name, present in llvmlite.binding.get_host_cpu_features().items() if present}
