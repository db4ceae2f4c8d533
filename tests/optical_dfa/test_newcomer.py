"""The first thing that anybody tries, word for word."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from optical_dfa import Feedback
from optical_dfa.devices import DeviceClosed

EXAMPLE = """\
import torch, optical_dfa as odfa
from torch import nn
net = nn.Sequential(nn.Linear(784, 512), nn.Tanh(), nn.Linear(512, 512), nn.Tanh(), nn.Linear(512, 10))
feedback = odfa.attach(net, after=nn.Tanh, device="emulator")       # sizes and opens the device, ternarises
opt = torch.optim.Adam(net.parameters(), 5e-4)
for x, y in loader:
    opt.zero_grad(); nn.functional.cross_entropy(net(x), y).backward(); opt.step()
print(feedback.audit(), feedback.device.usage)
feedback.close()
"""

AUDIT = """\
Sequential: 2 feedback points, device emulator, layout shared

feedback at '1'
  0.weight, bias  512 x 784, 512  feedback

feedback at '3'
  2.weight, bias  512 x 512, 512  feedback

exact, from the output
  4.weight, bias  10 x 512, 10  exact

gradient                                  tensors           values       %
feedback, no weight in between                  4          664,576    99.2
exact, from the output                          2            5,130     0.8 2,560 vectors, """


def test_the_readme_shows_the_same_example() -> None:
    readme = Path(__file__).parents[2] / "README.md"
    assert f"```python\n{EXAMPLE}```" in readme.read_text("utf-8")


def test_the_example_trains(capsys: pytest.CaptureFixture[str]) -> None:
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.randn(10, 784, generator=generator)
    loader = []
    for _ in range(20):
        y = torch.randint(0, 10, (128,), generator=generator)
        loader.append((prototypes[y] + torch.randn(128, 784, generator=generator), y))
    images, labels = loader[-1]

    torch.manual_seed(1)
    namespace = {"loader": loader}
    exec(EXAMPLE, namespace)
    net, feedback = namespace["net"], namespace["feedback"]
    assert isinstance(net, nn.Sequential)
    assert isinstance(feedback, Feedback)

    with torch.no_grad():
        after = cross_entropy(net(images), labels).item()
    torch.manual_seed(1)
    fresh = nn.Sequential(nn.Linear(784, 512), nn.Tanh(), nn.Linear(512, 512), nn.Tanh(), nn.Linear(512, 10))
    with torch.no_grad():
        before = cross_entropy(fresh(images), labels).item()
    assert before == pytest.approx(math.log(10), abs=0.3)
    assert after < 0.7 * before
    assert not torch.equal(net[0].weight, fresh[0].weight)

    usage = feedback.device.usage
    assert usage.vectors == 20 * 128
    assert usage.frames > 0
    assert usage.frames + usage.frames_skipped == 8 * usage.vectors
    assert (feedback.device.info.n_inputs, feedback.device.info.n_outputs) == (10, 512)
    printed = capsys.readouterr().out
    assert printed.startswith(AUDIT)
    assert f"{usage.frames:,} frames" in printed

    with pytest.raises(DeviceClosed):
        feedback.device.project(np.zeros((1, 10), np.int8))
    net.zero_grad()
    cross_entropy(net(images), labels).backward()
    assert usage.vectors == 20 * 128, "the closed feedback has left the net"
