"""The feedback that a configuration asks for."""

from torch import nn

from optical_dfa.attachment import attach
from optical_dfa.config import RunConfig
from optical_dfa.feedback import Feedback
from optical_dfa.training.graph import GraphNet
from optical_dfa.training.models import ACTIVATIONS, encoder_from


def attach_configured(net: nn.Module, config: RunConfig) -> Feedback:
    """Feedback after every activation of a net of `build_net`; opens no device yet.

    The error of a graph is that of all its nodes, zero where no output was asked for.
    """
    return attach(
        net,
        after=ACTIVATIONS[config.model.activation],
        device=config.device,
        ternarize=encoder_from(config.feedback.ternarize),
        layout=config.feedback.layout,
        error_at=str(len(net) - 1) if isinstance(net, GraphNet) else None,
        nonfinite="raise",
    )
