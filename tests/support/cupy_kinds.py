"""CuPy, faked for every machine and real where there is a GPU: the same tests run on both."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from fake_cupy import Fake, forget, installed

from optical_dfa.emulator.cupy_product import why_unavailable

every_cupy = pytest.mark.parametrize("kind", ["fake", pytest.param("real", marks=pytest.mark.gpu)])


@contextlib.contextmanager
def cupy_of(kind: str, seed: int = 0) -> Iterator[Any]:
    """The module `cupy` of that kind; skips where the real one cannot run."""
    if kind == "fake":
        with installed(Fake(seed)) as fake:
            yield fake.module
        return
    forget()
    if (reason := why_unavailable()) is not None:
        pytest.skip(reason)
    import cupy

    assert cupy.__version__ != Fake.VERSION, "a test left its fake behind"
    yield cupy
