"""Counter-based random words: every random number of the emulator is a pure function of what it belongs to.

A *key* names the place (seed and tile of the transmission matrix, or seed, stream and frame of the camera) and a
32-bit *counter* the position inside it. No generator state exists, so a number does not depend on the order in which
numbers are asked for, on batch splits, on threads or on the backend.

`derive_key` chains SplitMix64 (Steele, Lea and Flood 2014) over the parts of the place. `hash_words` is the
three-multiply 32-bit permutation "triple32" of Wellons' hash-prospector, with the two halves of the key injected before
the first and before the second multiplication. Multiplications of 32 bits are what AVX-512 and GPUs have; 64 bits of
key keep a matrix of 10^12 entries free of repeated tiles. Both were frozen after the battery of tests recorded in
`docs/decisions/0001-transmission-matrix-v1.md`.
"""

import numpy as np
import numpy.typing as npt

UInt32Array = npt.NDArray[np.uint32]
Key = tuple[UInt32Array, UInt32Array]
"""Low and high 32 bits of a 64-bit key, as uint32 arrays that broadcast against the counters."""


def derive_key(*path: int | npt.NDArray[np.uint64]) -> Key:
    """Key of the place `path`, for instance (seed, row block, column block).

    Args:
        path: integers 0 … 2^64-1, or uint64 arrays that broadcast together for many keys at once. Paths of different
            length are different places.

    Returns:
        Two uint32 arrays of the broadcast shape.

    Raises:
        OverflowError: for an integer outside 0 … 2^64-1.
    """
    key = np.asarray(len(path), np.uint64)
    for part in path:
        key = _splitmix64(key ^ np.asarray(part, np.uint64))
    return (key & np.uint64(0xFFFFFFFF)).astype(np.uint32), (key >> np.uint64(32)).astype(np.uint32)


def _splitmix64(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = np.atleast_1d(z) + np.uint64(0x9E3779B97F4A7C15)  # arrays wrap silently where NumPy scalars would warn
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def hash_words(counters: UInt32Array, key: Key) -> UInt32Array:
    """Random 32-bit words at `counters` of the place `key`.

    Args:
        counters: uint32, any shape.
        key: from `derive_key`; its shape broadcasts against `counters`.

    Returns:
        uint32 words of the broadcast shape. For one key the map is a permutation of the 2^32 counters.
    """
    low, high = key
    x = counters ^ low
    t = x >> np.uint32(17)
    x ^= t
    x *= np.uint32(0xED5AD4BB)
    x += high
    for shift, factor in ((11, 0xAC4C1B51), (15, 0x31848BAB)):
        np.right_shift(x, np.uint32(shift), out=t)
        x ^= t
        x *= np.uint32(factor)
    np.right_shift(x, np.uint32(14), out=t)
    x ^= t
    return x
