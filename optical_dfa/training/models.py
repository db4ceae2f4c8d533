"""The nets that a configuration can name."""

from itertools import pairwise

import torch
from torch import nn

from optical_dfa.config import ModelConfig

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
