"""Who changes the gradients of a net while micro-batches wait: sums in another order are other sums."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from optical_dfa.errors import FeedbackError


class GradientWatch:
    """Tells gradients that a block of code changes from those that something else changes.

    Args:
        net: whose parameters are watched.
    """

    def __init__(self, net: nn.Module) -> None:
        self._parameters = dict(net.named_parameters())

    def start(self) -> None:
        """From now on, both are told apart."""
        self._seen = self._look()
        self._by_us: set[str] = set()
        self._by_others: set[str] = set()

    @contextmanager
    def ours(self) -> Iterator[None]:
        """What changes in the block is ours.

        Raises:
            FeedbackError: a gradient was changed in such a block and outside, since `start`.
        """
        self._by_others |= self._changed()
        yield
        self._by_us |= self._changed()
        both = [name for name in self._parameters if name in self._by_us & self._by_others]
        if both:
            raise FeedbackError(
                f"the gradients of {', '.join(both[:5])}{' …' if both[5:] else ''} were changed while micro-batches "
                "waited for their projection, so that the sum would be another than without deferred(): by a part of "
                "the loss that does not come through the output of the net, by zero_grad, clipping or unscale_. Do "
                "that before the first micro-batch or behind settle(), or leave deferred() out"
            )

    def _look(self) -> dict[str, tuple[Tensor | None, int]]:
        gradients = ((name, parameter.grad) for name, parameter in self._parameters.items())
        return {name: (one, 0 if one is None else one._version) for name, one in gradients}

    def _changed(self) -> set[str]:
        before, self._seen = self._seen, self._look()
        return {
            name
            for name, (one, version) in self._seen.items()
            if one is not before[name][0] or version != before[name][1]
        }
