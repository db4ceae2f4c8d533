"""What a training step costs on the modelled optical machine, beside what it takes on this one; and where they meet."""

from optical_dfa.estimate.model import Cost, Optics, projection_cost
from optical_dfa.estimate.report import Estimate
from optical_dfa.estimate.run import estimate

__all__ = ["Cost", "Estimate", "Optics", "estimate", "projection_cost"]
