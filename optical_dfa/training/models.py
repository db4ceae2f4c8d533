"""The nets and encoders that a configuration can name."""

from itertools import pairwise

import torch
from torch import nn

from optical_dfa.config import ModelConfig, TernarizeConfig
from optical_dfa.encode import BitPlanes, Encoder, Ternarize

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "sigmoid": nn.Sigmoid}


def build_mlp(config: ModelConfig, n_features: int, n_classes: int, seed: int) -> nn.Sequential:
    """Linear layers with an activation after each but the last, PyTorch's initial weights drawn with `seed`.

    Leaves PyTorch's global generator as it was.
    """
    widths = [n_features, *config.hidden, n_classes]
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for n_inputs, n_outputs in pairwise(widths):
            layers += [nn.Linear(n_inputs, n_outputs), ACTIVATIONS[config.activation]()]
    return nn.Sequential(*layers[:-1])


def encoder_from(config: TernarizeConfig | None) -> Encoder | None:
    """The encoder that a configuration names; None sends the real error."""
    if config is None:
        return None
    if config.kind == "bit-planes":
        assert config.bits is not None  # by the rules of TernarizeConfig
        return BitPlanes(config.bits)
    return Ternarize(config.threshold, config.kind, config.seed)
