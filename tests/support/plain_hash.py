"""Keys and words of the emulator from their definition, in Python integers: independent of the code under test."""

MASK_32, MASK_64 = (1 << 32) - 1, (1 << 64) - 1


def splitmix64(state: int) -> int:
    """Output of SplitMix64 (Steele, Lea and Flood 2014) in this state."""
    z = (state + 0x9E3779B97F4A7C15) & MASK_64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK_64
    return z ^ (z >> 31)


def plain_key(*path: int) -> tuple[int, int]:
    key = len(path)
    for part in path:
        key = splitmix64(key ^ part)
    return key & MASK_32, key >> 32


def plain_word(counter: int, low: int, high: int) -> int:
    x = counter ^ low
    x ^= x >> 17
    x = (x * 0xED5AD4BB + high) & MASK_32
    x ^= x >> 11
    x = x * 0xAC4C1B51 & MASK_32
    x ^= x >> 15
    x = x * 0x31848BAB & MASK_32
    return x ^ (x >> 14)
