"""Times of the parts of a training step. No torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Times:
    """Seconds of the parts of a step, medians of repetitions that took turns."""

    repetitions: int
    forward: float
    """Forward pass and loss, plain net."""
    bp_backward: float
    dfa_forward: float
    """The same with the feedback attached."""
    dfa_backward: float
    """Backward pass of DFA without the projection: gradients within the blocks, encoding."""
    projection: float
    """The digital projection, through the device contract."""
    optimizer: float
    """Step of the configured optimiser; the same for both."""
