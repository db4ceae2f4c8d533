"""The physics and the exact product: NumPy alone, no torch, no input or output.

`reference` states what the transmission matrix is; `NumpyProduct` multiplies by it; `EmulatedBench` turns binary DMD
frames into camera images.
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
from optical_dfa.emulator.numpy_product import MatrixPlan, NumpyProduct

__all__ = [
    "Apparatus",
    "BenchInfo",
    "BenchParameters",
    "Camera",
    "EmulatedBench",
    "FrameStamp",
    "MatrixPlan",
    "NumpyProduct",
    "Photometry",
]
