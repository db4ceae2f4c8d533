"""Break-even: where along an axis one law of time falls below another. No torch."""

from collections.abc import Callable

MAX_STEP = 1.25
"""Ratio of neighbouring values that are looked at; within such a step the sign is taken to change once at most."""

Span = tuple[int, int]
"""First and last value of a stretch, both included."""


def faster_spans(contender: Callable[[int], float], reference: Callable[[int], float], limit: int) -> list[Span]:
    """Where the contender takes less time than the reference.

    Looks at values 1 … `limit` in steps of at most a quarter, and bisects where the sign changes, to the integer.

    Args:
        contender: seconds at a value, an integer ≥ 1.
        reference: as `contender`.
        limit: last value looked at, ≥ 1.
    """

    def wins(value: int) -> bool:
        return contender(value) < reference(value)

    spans: list[Span] = []
    value, winning = 1, wins(1)
    start = 1
    while value < limit:
        following = min(limit, max(value + 1, int(value * MAX_STEP)))
        if wins(following) != winning:
            low, high = value, following
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if wins(middle) == winning else (low, middle)
            if winning:
                spans.append((start, low))
            start, winning = high, not winning
        value = following
    return [*spans, (start, limit)] if winning else spans


def largest_accepted(accepts: Callable[[int], bool], limit: int) -> int:
    """Largest value up to `limit` that is accepted, 0 if none is; what is accepted has no gap."""
    low, high = 0, limit + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if accepts(middle) else (low, middle)
    return low


def most_speedup(stages: int) -> float:
    """Most that DFA can gain where every stage has a processor of its own: N + N steps become N + 1, so 2N / (N + 1).

    Source: the argument in the reviews of arXiv 2006.12878.

    Args:
        stages: N, layers that learn.
    """
    return 2 * stages / (stages + 1)
