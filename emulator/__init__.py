"""The physics and the exact product: NumPy, Numba where it is faster, CuPy on a GPU; no torch, no input or output.

`reference` states what the transmission matrix is; `make_product` gives the fastest backend that multiplies by it here;
`EmulatedBench` turns binary DMD frames into camera images.
"""

from optical_dfa.emulator.bench import (
    Apparatus,
    BenchInfo,
    BenchParameters,
    EmulatedBench,
    FrameStamp,
    Photometry,
)
from optical_dfa.emulator.camera import Camera
from optical_dfa.emulator.cupy_product import CupyProduct
from optical_dfa.emulator.numba_product import NumbaProduct
from optical_dfa.emulator.numpy_product import MatrixPlan, NumpyProduct
from optical_dfa.emulator.product import make_product

__all__ = [
    "Apparatus",
    "BenchInfo",
    "BenchParameters",
    "Camera",
    "CupyProduct",
    "EmulatedBench",
    "FrameStamp",
    "MatrixPlan",
    "NumbaProduct",
    "NumpyProduct",
    "Photometry",
    "make_product",
]
