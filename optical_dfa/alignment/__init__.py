"""Alignment of feedback with the true gradient, measured during training.

Sources of the formulas: "Align, then memorise", arXiv 2011.12428, for gradient and weight alignment.
"""

from optical_dfa.alignment.logs import JsonLines, TensorBoard
from optical_dfa.alignment.monitor import AlignmentMonitor
from optical_dfa.alignment.report import (
    Alignment,
    GradientAlignment,
    PointAlignment,
    ProjectionAlignment,
)

__all__ = [
    "Alignment",
    "AlignmentMonitor",
    "GradientAlignment",
    "JsonLines",
    "PointAlignment",
    "ProjectionAlignment",
    "TensorBoard",
]
