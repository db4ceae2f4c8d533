"""Timing of pairs: two calls right after each other, again and again, so that what slows one slows the other."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from optical_dfa.bench.bars import Pair

Call = Callable[[], object]

FILL_SECONDS = 0.02
"""CPU time that the calls of one measurement fill together: the clock and the caches are then no part of it."""

PAIR_SECONDS = 2.5
"""CPU time after which a pair is not measured again, once there are `FEWEST`."""

FEWEST, MOST = 3, 15


@dataclass(frozen=True)
class Timing:
    """Seconds of one call."""

    cpu: float
    """Of the whole process: all its threads."""
    wall: float


def timed(call: Call, fill_seconds: float = FILL_SECONDS) -> Timing:
    """Seconds of one call, from as many as fill `fill_seconds` of CPU time."""
    calls, cpu, wall = 0, time.process_time(), time.perf_counter()
    while (spent := time.process_time() - cpu) < fill_seconds or not calls:
        call()
        calls += 1
    return Timing(spent / calls, (time.perf_counter() - wall) / calls)


def timed_pairs(
    calls: Mapping[str, Call], pairs: list[Pair], fill_seconds: float = FILL_SECONDS, most: int = MOST
) -> dict[Pair, list[tuple[Timing, Timing]]]:
    """Time each pair from `FEWEST` to `most` times, in turn with the other pairs.

    Args:
        calls: by name, already called once.
        pairs: names (contender, reference).
        fill_seconds: of one measurement.
        most: measurements of a pair.

    Returns:
        For each pair its measurements (contender, reference), in order.
    """
    found: dict[Pair, list[tuple[Timing, Timing]]] = {pair: [] for pair in pairs}
    spent = dict.fromkeys(pairs, 0.0)
    for round_number in range(most):
        for pair in pairs:
            if round_number >= FEWEST and spent[pair] > PAIR_SECONDS:
                continue
            start = time.process_time()
            # the reference first in one round, last in the next: neither always finds the caches of the other
            order = pair if round_number % 2 else pair[::-1]
            timings = {name: timed(calls[name], fill_seconds) for name in order}
            found[pair].append((timings[pair[0]], timings[pair[1]]))
            spent[pair] += time.process_time() - start
    return found


def ratios(timings: list[tuple[Timing, Timing]], clock: str) -> list[float]:
    """Contender over reference, one ratio a pair. `clock`: `cpu` or `wall`."""
    return [getattr(contender, clock) / getattr(reference, clock) for contender, reference in timings]


def median_cpu(timings: list[Timing]) -> float:
    """Median CPU time of one call, seconds."""
    return statistics.median(timing.cpu for timing in timings)
