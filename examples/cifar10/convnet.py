"""A convolutional net on CIFAR-10, where Direct Feedback Alignment fails: three ways to train it.

    python examples/cifar10/convnet.py --folder PATH [--epochs 8] [--seeds 1] [-o runs/cifar10]

All positions of a map share the filters, and all get the same few random directions as feedback: filters hardly align
(arXiv 2006.12878, 2011.12428). Prints who gets which gradient and how well it is aligned with the true one; draws the
learning curves. Results: docs/results/examples.md.
"""

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import optical_dfa as odfa
from optical_dfa.data import ImageTask, load_task
from optical_dfa.feedback import Mode
from optical_dfa.figures import learning_curves

METHODS: dict[Mode, str] = {"bp": "backpropagation", "dfa": "optical DFA, emulated", "shallow": "shallow control"}


def make_net() -> nn.Sequential:
    """Four convolutions, each with an activation and a mean over 2 x 2 pixels, and a linear layer."""
    layers: list[nn.Module] = [nn.Unflatten(1, (3, 32, 32))]
    for n_in, n_out in ((3, 32), (32, 64), (64, 128), (128, 128)):
        layers += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 2 * 2, 10))


@torch.no_grad()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Fraction of the images that are classified correctly."""
    guesses = torch.cat([net(part).argmax(1) for part in images.split(500)])
    return float((guesses == labels).float().mean())


def train(mode: Mode, task: ImageTask, epochs: int, seed: int) -> list[float]:
    """Test accuracy after each epoch. The first run of `dfa` prints audit, device and alignment."""
    torch.manual_seed(seed)
    net, curve = make_net(), []
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    with odfa.attach(net, after=nn.Tanh, device="emulator") as feedback:
        feedback.mode = mode
        for epoch in range(epochs):
            for batch in torch.randperm(len(task.train_images)).split(64):
                optimiser.zero_grad()
                cross_entropy(net(task.train_images[batch]), task.train_labels[batch]).backward()
                optimiser.step()
            curve.append(accuracy(net, task.test_images, task.test_labels))
            print(f"{METHODS[mode]}, epoch {epoch + 1}: {100 * curve[-1]:.1f} % of the test images", flush=True)
        if mode == "dfa" and seed == 0:
            x, y, monitor = task.train_images[:500], task.train_labels[:500], feedback.alignment(1)
            monitor.steps = epochs * math.ceil(len(task.train_images) / 64)
            optimiser.zero_grad()
            with monitor.step(lambda: cross_entropy(net(x), y)):
                cross_entropy(net(x), y).backward()
            print("", feedback.audit(), feedback.device.usage, monitor.latest, "", sep="\n\n")
    return curve


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="folder of CIFAR-10's binary version")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds of weights and order")
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/cifar10"), help="folder of the figure")
    options = parser.parse_args()
    task = load_task("cifar10", options.folder)
    curves = {
        label: [train(mode, task, options.epochs, seed) for seed in range(options.seeds)]
        for mode, label in METHODS.items()
    }
    for label, runs in curves.items():
        print(f"{label}: {', '.join(f'{100 * run[-1]:.1f}' for run in runs)} % of the test images")
    learning_curves(curves, "A convolutional net on CIFAR-10", options.out / "convnet.png")
    print(options.out / "convnet.png")
