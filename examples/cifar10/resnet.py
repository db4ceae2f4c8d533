"""Residual blocks on CIFAR-10: feedback at the end of each block, and what is still backpropagated inside it.

    python examples/cifar10/resnet.py --folder PATH [--epochs 3] [--images 10000] [--fine]

The blocks are the feedback points. Inside a block gradients go backwards as usual, through the weights of its second
convolution: the audit says so. With `--fine` feedback enters at every activation, and no weight is transported.
"""

import argparse

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import optical_dfa as odfa
from optical_dfa.data import ImageTask, load_task
from optical_dfa.feedback import Mode


class ResidualBlock(nn.Module):
    """tanh(skip(x) + conv(tanh(conv(x)))); the skip is a 1 x 1 convolution, since the width or the size changes."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.first, self.inner = nn.Conv2d(n_in, n_out, 3, stride, padding=1), nn.Tanh()
        self.second, self.outer = nn.Conv2d(n_out, n_out, 3, padding=1), nn.Tanh()
        self.skip = nn.Conv2d(n_in, n_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(images, n_in, height, width) → (images, n_out, height / stride, width / stride)."""
        return self.outer(self.skip(x) + self.second(self.inner(self.first(x))))


def make_net() -> nn.Sequential:
    """Four residual blocks, the mean over positions, and a linear layer."""
    blocks = [ResidualBlock(*sizes) for sizes in ((3, 32, 1), (32, 64, 2), (64, 128, 2), (128, 128, 2))]
    return nn.Sequential(
        nn.Unflatten(1, (3, 32, 32)), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)
    )


def train(mode: Mode, task: ImageTask, epochs: int, n_images: int, fine: bool) -> None:
    """Train, and print the audit and the accuracy on the test images."""
    torch.manual_seed(0)
    net = make_net()
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    with odfa.attach(net, after=nn.Tanh if fine else ResidualBlock, device="emulator") as feedback:
        feedback.mode = mode
        for _ in range(epochs):
            for batch in torch.randperm(min(n_images, len(task.train_images))).split(64):
                optimiser.zero_grad()
                cross_entropy(net(task.train_images[batch]), task.train_labels[batch]).backward()
                optimiser.step()
        if mode == "dfa":
            print(feedback.audit(), end="\n\n")
    with torch.no_grad():
        guesses = torch.cat([net(part).argmax(1) for part in task.test_images.split(500)])
    print(f"{mode}: {100 * (guesses == task.test_labels).float().mean():.1f} % of the test images", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="folder of CIFAR-10's binary version")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=10_000, help="training images used")
    parser.add_argument("--fine", action="store_true", help="feedback at every activation, not at every block")
    options = parser.parse_args()
    task = load_task("cifar10", options.folder)
    for mode in ("bp", "dfa"):
        train(mode, task, options.epochs, options.images, options.fine)
