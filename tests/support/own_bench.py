"""A bench as a configuration names it: `bench: own_bench:make`."""

from optical_dfa.devices import load_preset
from optical_dfa.emulator import EmulatedBench


def make() -> EmulatedBench:
    return EmulatedBench(10, 128, 7, load_preset("lab-bench").bench)
