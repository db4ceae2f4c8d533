"""Whether Numba can run here, without importing it where the answer is no."""

import functools
import importlib.util
import os
import platform


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


def _cpu_features() -> set[str]:
    """Features that Numba compiles for: of this CPU, unless Numba's environment variables say otherwise."""
    if platform.machine() in ("aarch64", "arm64"):
        return {"fma"}
    chosen = os.environ.get("NUMBA_CPU_FEATURES")
    if platform.machine() not in ("x86_64", "AMD64") or os.environ.get("NUMBA_ENABLE_AVX", "1") == "0":
        return set()
    if chosen is not None:
        return {name[1:] for name in chosen.split(",") if name.startswith("+")}
    if os.environ.get("NUMBA_CPU_NAME", "host") not in ("", "host"):
        return set()
    import llvmlite.binding  # loads LLVM: only where Numba is about to be used

    return {name for name, present in llvmlite.binding.get_host_cpu_features().items() if present}
