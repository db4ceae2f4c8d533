"""The physics and the exact product: NumPy, Numba where it is faster, CuPy on a GPU; no torch, no input or output.

`reference` states what the transmission matrix is; `make_product` gives the fastest backend that multiplies by it here;
`EmulatedBench` turns binary DMD frames into camera images.
"""

from optical_dfa.emulator.bench import BenchInfo, EmulatedBench, FrameStamp
from optical_dfa.emulator.camera import Camera, PixelMaps
from optical_dfa.emulator.cupy_product import CupyProduct
from optical_dfa.emulator.dmd import Dmd
from optical_dfa.emulator.laser import Laser
from optical_dfa.emulator.measured import MeasuredLight
from optical_dfa.emulator.medium import Medium, field_correlation
from optical_dfa.emulator.numba_product import NumbaProduct
from optical_dfa.emulator.numpy_product import MatrixPlan, NumpyProduct
from optical_dfa.emulator.parameters import Apparatus, BenchParameters, Grain, Photometry
from optical_dfa.emulator.product import make_product
from optical_dfa.emulator.pupil import Pupil

__all__ = [
    "Apparatus",
    "BenchInfo",
    "BenchParameters",
    "Camera",
    "CupyProduct",
    "Dmd",
    "EmulatedBench",
    "FrameStamp",
    "Grain",
    "Laser",
    "MatrixPlan",
    "MeasuredLight",
    "Medium",
    "NumbaProduct",
    "NumpyProduct",
    "Photometry",
    "PixelMaps",
    "Pupil",
    "field_correlation",
    "make_product",
]
