"""A graph convolutional net on Cora by Direct Feedback Alignment: one feedback vector for each node.

    python examples/cora/gcn.py [--folder PATH] [--epochs 250] [--seeds 5]

Needs torch_geometric (pip install "optical_dfa[graphs]"), which downloads Cora once, unless Cora/raw/ind.cora.* are in
the folder. Dropout and weight decay after arXiv 2006.12878. The loss is of 140 labelled nodes alone: the errors of all
others are zero, and dark vectors are not displayed. Results: docs/results/examples.md.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch_geometric.data import Data
from torch_geometric.datasets import Planetoid
from torch_geometric.nn import GCNConv
from torch_geometric.transforms import NormalizeFeatures

import optical_dfa as odfa
from optical_dfa.feedback import Mode

METHODS: dict[str, tuple[Mode, dict[str, Any]]] = {
    "backpropagation": ("bp", {}),
    "exact DFA": ("dfa", {"device": "digital", "ternarize": None}),
    "optical DFA": ("dfa", {"device": "emulator", "ternarize": odfa.Ternarize(0.25)}),
    "optical DFA, default threshold of 0.5": ("dfa", {"device": "emulator"}),
    "shallow control": ("shallow", {}),
}


class Gcn(nn.Module):
    """Two graph convolutions."""

    def __init__(self, n_in: int, n_out: int, dropout: float, hidden: int = 16) -> None:
        super().__init__()
        self.first, self.activation = GCNConv(n_in, hidden), nn.Tanh()
        self.dropout, self.second = nn.Dropout(dropout), GCNConv(hidden, n_out)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        hidden = self.activation(self.first(self.dropout(x), edge_index))
        return self.second(self.dropout(hidden), edge_index)


def train(graph: Data, n_classes: int, name: str, epochs: int, seed: int) -> float:
    """Accuracy on the test nodes at the epoch of the best accuracy on the validation nodes."""
    mode, options = METHODS[name]
    torch.manual_seed(seed)
    net = Gcn(graph.num_features, n_classes, dropout=0.5 if mode == "bp" else 0.1)
    optimiser = torch.optim.Adam(net.parameters(), 0.01, weight_decay=5e-4 if mode == "bp" else 1e-4)
    best = (0.0, 0.0)
    with odfa.attach(net, after=["activation"], **options) as feedback:
        feedback.mode = mode
        for _ in range(epochs):
            optimiser.zero_grad()
            out = net.train()(graph.x, graph.edge_index)
            cross_entropy(out[graph.train_mask], graph.y[graph.train_mask]).backward()
            optimiser.step()
            with torch.no_grad():
                right = (net.eval()(graph.x, graph.edge_index).argmax(1) == graph.y).float()
            best = max(best, (float(right[graph.val_mask].mean()), float(right[graph.test_mask].mean())))
        if name == "optical DFA" and not seed:
            print(feedback.audit(), feedback.device.usage, sep="\n\n", end="\n\n")
    return best[1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("data/planetoid"), help="folder of the data set")
    parser.add_argument("--epochs", type=int, default=250)
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds of weights and dropout")
    options = parser.parse_args()
    cora = Planetoid(str(options.folder), "Cora", transform=NormalizeFeatures())
    for name in METHODS:
        runs = [train(cora[0], cora.num_classes, name, options.epochs, seed) for seed in range(options.seeds)]
        spread = statistics.stdev(runs) if len(runs) > 1 else 0.0
        print(f"{name}: {100 * statistics.mean(runs):.1f} ± {100 * spread:.1f} % of the test nodes", flush=True)
