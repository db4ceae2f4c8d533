"""Residual blocks on CIFAR-10, feedback after each block or after each activation; results: docs/results/examples.md.

    python examples/cifar10/resnet.py --folder PATH [--epochs 3] [--images 10000]

Where blocks are the feedback points, gradients go backwards inside a block as usual, through the weights of its second
convolution: the audit says so. Where activations are, only through those of batch norm.
"""

import argparse

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import optical_dfa as odfa
from optical_dfa.data import load_task
from optical_dfa.feedback import Mode


def convolution(n_in: int, n_out: int, size: int, stride: int = 1) -> nn.Sequential:
    """Convolution and batch norm, without which feedback drives the tanh into saturation."""
    return nn.Sequential(nn.Conv2d(n_in, n_out, size, stride, size // 2, bias=False), nn.BatchNorm2d(n_out))


class ResidualBlock(nn.Module):
    """tanh(skip(x) + conv(tanh(conv(x)))); the skip is a 1 x 1 convolution, since the width or the size changes."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.first, self.inner = convolution(n_in, n_out, 3, stride), nn.Tanh()
        self.second, self.skip = convolution(n_out, n_out, 3), convolution(n_in, n_out, 1, stride)
        self.outer = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.skip(x) + self.second(self.inner(self.first(x))))


METHODS: dict[str, tuple[Mode, type[nn.Module]]] = {
    "backpropagation": ("bp", ResidualBlock),
    "feedback after each block": ("dfa", ResidualBlock),
    "feedback after each activation": ("dfa", nn.Tanh),
    "shallow control": ("shallow", ResidualBlock),
}


def make_net() -> nn.Sequential:
    """Four residual blocks, the mean over positions, and a linear layer."""
    blocks = [ResidualBlock(*sizes) for sizes in ((3, 32, 1), (32, 64, 2), (64, 128, 2), (128, 128, 2))]
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)
    return nn.Sequential(nn.Unflatten(1, (3, 32, 32)), *blocks, *head)


def train(mode: Mode, after: type[nn.Module], folder: str, epochs: int, images: int) -> float:
    """Fraction of the test images that are classified correctly in the end; prints the audit of the feedback."""
    task = load_task("cifar10", folder)
    torch.manual_seed(0)
    net = make_net()
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    with odfa.attach(net, after=after, device="emulator") as feedback:
        feedback.mode = mode
        for _ in range(epochs):
            for batch in torch.randperm(min(images, len(task.train_images))).split(64):
                optimiser.zero_grad()
                cross_entropy(net(task.train_images[batch]), task.train_labels[batch]).backward()
                optimiser.step()
        if mode == "dfa":
            print(feedback.audit(), end="\n\n")
    with torch.no_grad():
        guesses = torch.cat([net.eval()(part).argmax(1) for part in task.test_images.split(500)])
    return float((guesses == task.test_labels).float().mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="folder of CIFAR-10's binary version")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=10_000, help="training images used")
    options = vars(parser.parse_args())
    for name, method in METHODS.items():
        print(f"{name}: {100 * train(*method, **options):.1f} % of the test images", flush=True)
