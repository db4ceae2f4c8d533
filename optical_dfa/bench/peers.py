"""The simulator of the vendor's software, `lightonml`, as one more contender.

It draws a stored complex matrix with NumPy and multiplies by it: no noise, no camera. `make bench-peers` installs it
into a folder of its own, since it wants old versions of what others want new.
"""

import importlib.util

import numpy as np
import numpy.typing as npt

from optical_dfa.bench.measure import Call

NEEDED = ("lightonml", "pkg_resources")


def lacking() -> str:
    """What the vendor's simulator needs and is not installed here, and how to install it; empty if all is there."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} not installed here: `make bench-peers` brings it along" if missing else ""


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
