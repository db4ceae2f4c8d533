"""What was measured on: CPU, caches, libraries and their settings."""

import contextlib
import ctypes
import importlib.util
import os
import platform
import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from optical_dfa.emulator.numba_support import instruction_set, why_no_product

SHOWN_FEATURES = (
    "avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx512vbmi", "avx512_bf16", "avx_vnni", "amx_int8",
    "asimddp", "i8mm", "sve",
)  # fmt: skip
"""CPU features, in Linux's names, that a product of integers or float32 numbers could use."""

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "OPTICAL_DFA_THREADS")


@dataclass(frozen=True)
class Machine:
    """The computer; nothing that names it."""

    cpu: str
    family_model: str
    """Numbers by which Linux tells CPUs apart, `25/17`; empty where they are not known."""
    cores: int
    """That this process may use."""
    caches: dict[str, str]
    """Sizes of the first core's caches, `L1d`, `L2` …"""
    features: list[str]
    """Those of `SHOWN_FEATURES` that it has."""
    memory_gb: float | None
    system: str
    python: str

    @property
    def slug(self) -> str:
        """A name for files: CPU, family, model and cores."""
        words = f"{self.cpu} {self.family_model} {self.cores} cores".lower().replace("(r)", "").replace("(tm)", "")
        return "-".join(re.findall(r"[a-z0-9]+", words))


def describe() -> Machine:
    """This computer. What cannot be found out is empty."""
    info = _cpu_info()
    numbers = [info[key] for key in ("cpu family", "model") if key in info]
    flags = set((info.get("flags") or info.get("Features", "")).split())
    memory = None
    with contextlib.suppress(OSError, ValueError, AttributeError):
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    return Machine(
        cpu=info.get("model name") or platform.processor() or platform.machine(),
        family_model="/".join(numbers),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        caches=_caches(),
        features=[name for name in SHOWN_FEATURES if name in flags],
        memory_gb=memory,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


def numerics() -> dict[str, Any]:
    """Libraries of this process, and what OpenBLAS made of its settings."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "numpy": np.__version__,
        "numba": _numba(),
        "blas": f"{blas.get('name')} {blas.get('version')}",
        "blas_core": _openblas_core(),
        "environment": {name: os.environ.get(name) for name in ("OPENBLAS_CORETYPE", *THREAD_VARIABLES)},
    }


def _numba() -> str | None:
    """Version, and the instructions of the exact product: not the CPU's best where Numba is told to do without."""
    if importlib.util.find_spec("numba") is None:
        return None
    return version("numba") + (f" ({instruction_set()})" if why_no_product() is None else "")


def load() -> float | None:
    """Processes that wanted a core, mean of the last minute; None where it is not known."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def reset_peak_bytes() -> int | None:
    """Forget the peak of resident memory; resident bytes now, None where that cannot be done."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status_bytes("VmRSS")


def peak_bytes() -> int | None:
    """Peak of resident memory since `reset_peak_bytes`."""
    return _status_bytes("VmHWM")


def _status_bytes(name: str) -> int | None:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return found and int(found[1]) * 1024


def _cpu_info() -> dict[str, str]:
    """The first core's lines of /proc/cpuinfo; empty elsewhere than on Linux."""
    try:
        first = Path("/proc/cpuinfo").read_text("utf-8").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _caches() -> dict[str, str]:
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        with contextlib.suppress(OSError):
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
            if kind != "Instruction":
                found[f"L{level}{'d' if kind == 'Data' else ''}"] = size
    return found


def _openblas_core() -> str | None:
    """Which CPU OpenBLAS took this one for, asked of the library that NumPy loaded; None if there is none."""
    np.ones((2, 2)) @ np.ones((2, 2))
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return None
    for path in sorted(set(re.findall(r"\S+openblas\S*", maps))):
        library = ctypes.CDLL(path)
        for name in ("scipy_openblas_get_corename64_", "openblas_get_corename64_", "openblas_get_corename"):
            with contextlib.suppress(AttributeError):
                ask = getattr(library, name)
                ask.restype = ctypes.c_char_p
                core: bytes = ask()
                return core.decode()
    return None
