"""Compiled kernels on disk: one process never runs what another compiled for other arguments."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from optical_dfa.emulator import numba_cache


def double(values: npt.NDArray[Any]) -> Any:
    return 2 * values[0]


def test_code_of_another_signature_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes find no index and compile for int64 and for float64; the first is the last to write file 1."""
    monkeypatch.setattr(numba_cache, "cache_folder", lambda: tmp_path)
    whole, real = np.array([3]), np.array([0.5])
    first, second, third, fourth = (numba_cache.compiled(double) for _ in range(4))
    assert first(whole) == 6
    (code,) = tmp_path.rglob("*.1.nbc")
    written = code.read_bytes()
    monkeypatch.setattr(second._cache._cache_file._files, "_load_index", dict)
    assert second(real) == 1
    code.write_bytes(written)
    assert third(real) == 1
    assert fourth(real) == 1
    assert [sum(kernel.stats.cache_hits.values()) for kernel in (third, fourth)] == [0, 1]
