"""Which sequence of frames a device shows: one for each process of a distributed run."""

import os

from optical_dfa.emulator.checks import require


def own_stream(stream: int | None) -> int:
    """A stream, checked; None: the rank of this process (environment variable RANK), so that ranks share no noise.

    Raises:
        ValueError: not a number from 0 to 2^64 - 1, or a RANK that is none.
    """
    if stream is None:
        rank = os.environ.get("RANK", "0")
        require(rank.isdecimal(), "environment variable RANK", rank, "a whole number, 0 or more")
        return int(rank)
    accepted = isinstance(stream, int) and not isinstance(stream, bool) and 0 <= stream < 1 << 64
    require(accepted, "stream", stream, "an int from 0 to 2^64 - 1")
    return stream
