"""A training step holds no more than backpropagation does: one projection, of which every point gets a view."""

import pytest
import torch
from torch import Tensor, nn

from optical_dfa import attach


def gradients_at_points(widths: tuple[int, ...], layout: str) -> tuple[list[Tensor], Tensor, Tensor]:
    """Gradients at the outputs of the points, the matrix of the device, and the error."""
    torch.manual_seed(0)
    sides = (6, *widths)
    blocks = [nn.Sequential(nn.Linear(n_in, n_out), nn.Tanh()) for n_in, n_out in zip(sides, widths, strict=False)]
    net = nn.Sequential(*blocks, nn.Linear(widths[-1], 4))
    arrived: dict[int, Tensor] = {}
    points = [str(number) for number in range(len(widths))]
    for number in range(len(widths)):

        def watch(_: nn.Module, __: object, output: Tensor, number: int = number) -> None:
            output.register_hook(lambda gradient: arrived.update({number: gradient}))  # type: ignore[no-untyped-call]

        net[number].register_forward_hook(watch)  # before the hook of the point
    error = torch.randn(5, 4)
    with attach(net, after=points, device="digital", ternarize=None, layout=layout) as feedback:  # type: ignore[arg-type]
        net(torch.randn(5, 6)).backward(error)
        matrix = feedback.device.effective_matrix()
    return [arrived[number] for number in range(len(widths))], torch.from_numpy(matrix), error


def test_points_of_one_width_share_the_memory_of_one_projection() -> None:
    (first, second, third), matrix, error = gradients_at_points((8, 8, 8), "shared")
    assert first.data_ptr() == second.data_ptr() == third.data_ptr()
    torch.testing.assert_close(first, error @ matrix.T / 8**0.5)


def test_independent_points_of_one_width_lie_in_one_projection() -> None:
    found, matrix, error = gradients_at_points((8, 8), "independent")
    assert found[0].untyped_storage().data_ptr() == found[1].untyped_storage().data_ptr()
    for number, gradient in enumerate(found):
        torch.testing.assert_close(gradient, error @ matrix[8 * number : 8 * number + 8].T / 8**0.5)


@pytest.mark.parametrize("layout", ["shared", "independent"])
def test_points_of_several_widths_have_their_own_scale(layout: str) -> None:
    found, matrix, error = gradients_at_points((8, 6), layout)
    starts = (0, 8 if layout == "independent" else 0)
    for gradient, start, width in zip(found, starts, (8, 6), strict=True):
        torch.testing.assert_close(gradient, error @ matrix[start : start + width].T / width**0.5)
