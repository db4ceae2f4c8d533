"""The simulator of the vendor's software, `lightonml`, as one more contender.

It draws a stored complex matrix with NumPy and multiplies by it: no noise, no camera. `make bench-peers` installs it
into an environment of its own, since it wants old versions of what others want new.
"""

import importlib.util
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt

from optical_dfa.bench.measure import Call
from optical_dfa.run_errors import InputError

NEEDED = ("lightonml", "pkg_resources", "numpy", "numba", "optical_dfa.emulator")
"""What the interpreter of the comparison imports: both sides, in one process."""

HOW_TO_INSTALL = "`make bench-peers` makes .venv-peers, whose interpreter is .venv-peers/bin/python"


def installed_here() -> bool:
    """Whether this interpreter has the vendor's simulator."""
    return importlib.util.find_spec("lightonml") is not None


def check_interpreter(python: Path) -> None:
    """Refuse an interpreter that cannot run the comparison.

    Raises:
        InputError: it cannot be started, or lacks something.
    """
    program = "import importlib.util as u, sys; print(*[n for n in sys.argv[1:] if u.find_spec(n) is None])"
    try:
        done = subprocess.run([python, "-c", program, *NEEDED], capture_output=True, text=True, check=False)
    except OSError as error:
        raise InputError(f"--peers {python}: cannot be started: {error.strerror}; {HOW_TO_INSTALL}") from None
    if done.returncode:
        raise InputError(
            f"--peers {python}: must be a Python interpreter with optical_dfa on its path; {HOW_TO_INSTALL}"
        )
    if lacking := done.stdout.split():
        raise InputError(f"--peers {python}: lacks {', '.join(lacking)}; {HOW_TO_INSTALL}")


def vendor_transform(patterns: npt.NDArray[np.uint8], n_pixels: int) -> Call:
    """The noiseless `transform` of binary patterns (batch, n_in) to `n_pixels` intensities, set up and tried once.

    Raises:
        ArithmeticError: the result is not that of a simulated device.
    """
    from lightonml.opu import OPU

    opu = OPU(n_components=n_pixels, max_n_features=patterns.shape[1], simulated=True)
    opu.fit1d(patterns)
    intensity = np.asarray(opu.transform(patterns))
    if intensity.shape != (len(patterns), n_pixels) or not (intensity >= 0).all() or not intensity.any():
        raise ArithmeticError(f"the vendor's simulator gave {intensity.dtype} {intensity.shape}, or no intensities")
    return lambda: opu.transform(patterns)
