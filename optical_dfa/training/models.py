"""The nets and encoders that a configuration can name."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import nn

from optical_dfa.config import ModelConfig, TernarizeConfig
from optical_dfa.data import ImageTask, NodeTask
from optical_dfa.encode import BitPlanes, Encoder, Ternarize
from optical_dfa.training.graph import GraphConvolution, GraphNet, normalised_adjacency

Layer = Callable[[int, int], nn.Module]
"""Makes a layer from its numbers of inputs and outputs."""

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "sigmoid": nn.Sigmoid}


def build_net(config: ModelConfig, task: ImageTask, seed: int) -> nn.Sequential:
    """The net for a task; for nodes of a graph one of all its nodes, of graph convolutions if so configured."""
    if not isinstance(task, NodeTask):
        return build_mlp(config, task.n_features, task.n_classes, seed)
    layer: Layer = nn.Linear
    if config.kind == "gcn":
        layer = partial(GraphConvolution, normalised_adjacency(task.edges, len(task.features)))
    return GraphNet(task.features, list(build_mlp(config, task.n_features, task.n_classes, seed, layer)))


def build_mlp(
    config: ModelConfig, n_features: int, n_classes: int, seed: int, layer: Layer = nn.Linear
) -> nn.Sequential:
    """Linear layers with an activation after each but the last, PyTorch's initial weights drawn with `seed`.

    Leaves PyTorch's global generator as it was.
    """
    widths = [n_features, *config.hidden, n_classes]
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for n_inputs, n_outputs in pairwise(widths):
            layers += [layer(n_inputs, n_outputs), ACTIVATIONS[config.activation]()]
    return nn.Sequential(*layers[:-1])


def hidden_parameters(net: nn.Sequential) -> list[nn.Parameter]:
    """Parameters of all layers but the last, from the bottom."""
    return [parameter for module in list(net)[:-1] for parameter in module.parameters()]


def encoder_from(config: TernarizeConfig | None) -> Encoder | None:
    """The encoder that a configuration names; None sends the real error."""
    if config is None:
        return None
    if config.kind == "bit-planes":
        assert config.bits is not None  # by the rules of TernarizeConfig
        return BitPlanes(config.bits)
    return Ternarize(config.threshold, config.kind, config.seed)
