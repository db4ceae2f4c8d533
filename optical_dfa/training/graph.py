"""Nets that classify the nodes of a graph: graph convolutions after Kipf and Welling (ICLR 2017), arXiv 1609.02907."""

from typing import cast

import torch
from torch import Tensor, nn


def normalised_adjacency(edges: Tensor, n_nodes: int) -> Tensor:
    """D^-½ (A + I) D^-½, D the row sums of A + I: sparse float32 (nodes, nodes).

    Args:
        edges: int64 (2, edges), each in both directions, once, none from a node to itself.
        n_nodes: of the graph.
    """
    loops = torch.arange(n_nodes).repeat(2, 1)
    both = torch.cat([edges, loops], 1)
    scale = torch.bincount(both[0], minlength=n_nodes).float().rsqrt()
    values = scale[both[0]] * scale[both[1]]
    return torch.sparse_coo_tensor(both, values, (n_nodes, n_nodes), check_invariants=True).coalesce()


class GraphConvolution(nn.Linear):
    """A linear layer, then the normalised adjacency: (nodes, in_features) -> (nodes, out_features)."""

    adjacency: Tensor

    def __init__(self, adjacency: Tensor, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.register_buffer("adjacency", adjacency, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The layer of all nodes."""
        return cast(Tensor, torch.sparse.mm(self.adjacency, super().forward(x)))


class GraphNet(nn.Sequential):
    """Layers on all nodes of a graph; its input are the numbers of the nodes whose outputs are asked for."""

    features: Tensor

    def __init__(self, features: Tensor, layers: list[nn.Module]) -> None:
        super().__init__(*layers)
        self.register_buffer("features", features, persistent=False)

    def forward(self, nodes: Tensor) -> Tensor:
        """Outputs (nodes, classes) for node numbers int64 (nodes,)."""
        outputs = super().forward(self.features)  # type: ignore[no-untyped-call]
        return cast(Tensor, outputs[nodes])
