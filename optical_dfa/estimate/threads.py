"""One number of threads for PyTorch, Numba and NumPy's OpenBLAS, which has no call of its own for it."""

import contextlib
import ctypes
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from optical_dfa.emulator.threads import THREADS_VARIABLE


@contextlib.contextmanager
def all_threads(count: int) -> Iterator[None]:
    """Within the block, whatever computes uses that many threads."""
    before = torch.get_num_threads()
    variable = os.environ.get(THREADS_VARIABLE)
    libraries = [(get(), put) for get, put in _openblas()]
    try:
        torch.set_num_threads(count)
        os.environ[THREADS_VARIABLE] = str(count)
        for _, put in libraries:
            put(count)
        yield
    finally:
        torch.set_num_threads(before)
        os.environ.pop(THREADS_VARIABLE, None)
        if variable is not None:
            os.environ[THREADS_VARIABLE] = variable
        for earlier, put in libraries:
            put(earlier)


def _openblas() -> Iterator[tuple[Callable[[], int], Callable[[int], object]]]:
    """How to ask and tell each OpenBLAS of this process; none elsewhere than on Linux."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return
    for path in sorted(set(re.findall(r"\S+openblas\S*", maps))):
        library = ctypes.CDLL(path)
        for pattern in ("scipy_openblas_{}_num_threads64_", "openblas_{}_num_threads64_", "openblas_{}_num_threads"):
            with contextlib.suppress(AttributeError):
                yield getattr(library, pattern.format("get")), getattr(library, pattern.format("set"))
                break
