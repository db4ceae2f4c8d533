"""Every instruction set of the Numba product gives the integers of the reference, whichever this CPU prefers.

Each runs in a process that may use its instructions alone, set by Numba's environment variables. A set that this CPU
lacks is compiled, and not run.
"""

import platform
import re
from pathlib import Path

import numpy as np
import pytest
from fresh import ROOT, interpreter

from optical_dfa.emulator import numba_support
from optical_dfa.emulator.matrix import TABLE
from optical_dfa.emulator.numba_support import INSTRUCTION_SETS, instruction_set, why_no_product, why_unavailable

GRID = ROOT / "tests" / "support" / "exact_product_grid.py"

ASSEMBLY = """
import numba, numpy as np
from optical_dfa.emulator import numba_kernels as kernels
words, sums = np.zeros(1, np.uint32), np.zeros(1, np.int32)
arguments = (words, words, sums, np.uint64(0), (0, 0), kernels.new_scratch(1), sums[None], 0, 0, False)
kernels.multiply.compile(tuple(map(numba.typeof, arguments)))
print(*kernels.multiply.inspect_asm().values())
"""

INSTRUCTIONS = {
    "AVX-512 VNNI": {"vpdpbusd"},
    "AVX-512 VNNI without VBMI": {"vpshufb", "vpavgb", "vpdpbusd"},
    "AVX-VNNI": {"vpshufb", "vpavgb", "vpdpbusd"},
    "AVX2": {"vpshufb", "vpavgb", "vpmaddubsw", "vpmaddwd"},
}
"""What the work is done by."""


def run(name: str, *program: str, cache: Path) -> str:
    """Output of a process in which Numba may use that instruction set alone."""
    features = ",".join(f"+{feature}" for feature in INSTRUCTION_SETS[name])
    settings = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(cache)}
    return interpreter(*program, environment=settings)


def numba_compiles_here() -> bool:
    return why_unavailable(()) is None and platform.machine() in ("x86_64", "AMD64")


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_integers_are_those_of_the_reference(name: str, tmp_path: Path) -> None:
    if why_unavailable(INSTRUCTION_SETS[name]) is None:
        assert run(name, str(GRID), cache=tmp_path).strip() == name


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_the_instructions_are_those_meant(name: str, tmp_path: Path) -> None:
    """And no others: a register of 512 bits, or one beyond the 16, is an illegal instruction on a CPU with AVX2."""
    if not numba_compiles_here():
        return
    assembly = run(name, "-c", ASSEMBLY, cache=tmp_path)
    assert set(re.findall(r"\bvp\w+", assembly)) >= INSTRUCTIONS[name]
    if "AVX-512" not in name:
        assert not re.search(r"zmm|ymm(1[6-9]|[23]\d)", assembly)
        assert len(re.findall("vpdpbusd", assembly)) == len(re.findall(r"\{vex\}\s+vpdpbusd", assembly))


@pytest.mark.parametrize(
    ("features", "chosen"),
    [
        ("avx2 fma avx512f avx512bw avx512vl avx512vnni avx512vbmi", "AVX-512 VNNI"),
        ("avx2 fma avx512f avx512bw avx512vl avx512vnni", "AVX-512 VNNI without VBMI"),  # Cascade Lake
        ("avx2 fma avxvnni", "AVX-VNNI"),  # Alder Lake
        ("avx2 fma avx512f avx512bw avx512vl", "AVX2"),  # Skylake-X
        ("avx2 fma", "AVX2"),  # Haswell, Zen 2, Zen 3
    ],
)
def test_choice(monkeypatch: pytest.MonkeyPatch, features: str, chosen: str) -> None:
    monkeypatch.setattr(numba_support, "_cpu_features", lambda: set(features.split()))
    why_unavailable.cache_clear()
    try:
        if why_unavailable(()) is None:
            assert (instruction_set(), why_no_product()) == (chosen, None)
    finally:
        why_unavailable.cache_clear()


def test_features_follow_the_settings_of_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU's name alone changes nothing: Numba then asks LLVM for the features of this one."""
    if not numba_compiles_here():
        return
    for name in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_ENABLE_AVX"):
        monkeypatch.delenv(name, raising=False)
    here = numba_support._cpu_features()
    monkeypatch.setenv("NUMBA_CPU_NAME", "haswell")
    assert numba_support._cpu_features() == here
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "+avx2,-avx512f")
    assert numba_support._cpu_features() == {"avx2"}
    monkeypatch.delenv("NUMBA_CPU_FEATURES")
    monkeypatch.setenv("NUMBA_CPU_NAME", "Generic")
    assert numba_support._cpu_features() == set()


def test_what_the_avx2_table_rests_on() -> None:
    """Antisymmetric; two neighbours below 96 differ by 0 or 1, so that their mean, rounded either way, gives both."""
    np.testing.assert_array_equal(TABLE[::-1], -TABLE)
    assert set(np.diff(TABLE[128 : 128 + 96].astype(int))[::2].tolist()) == {0, 1}
