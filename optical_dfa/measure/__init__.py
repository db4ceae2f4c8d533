"""Measure the matrix of a device, keep it in a file, and look at it. No torch."""

from optical_dfa.measure.measure import measure_matrix, save_matrix
from optical_dfa.measure.probes import BlockHadamard
from optical_dfa.measure.report import Comparison, Report, compare, report
from optical_dfa.measure.spectrum import Spectrum, spectrum

__all__ = [
    "BlockHadamard",
    "Comparison",
    "Report",
    "Spectrum",
    "compare",
    "measure_matrix",
    "report",
    "save_matrix",
    "spectrum",
]
