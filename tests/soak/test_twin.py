"""Do the intervals of a twin hold the truth as often as they say?"""

import math
from collections import defaultdict

import numpy as np
import pytest
from hidden_benches import hidden

from optical_dfa.devices import make_device
from optical_dfa.twin import Plan, fit, show_plan
from optical_dfa.twin.truth import known_values

BENCHES = 60


@pytest.mark.soak
def test_intervals_of_many_hidden_benches() -> None:
    """Distances in standard errors, by value. All together 95 % must be inside; √(0.05 · 0.95 / 750) is 0.8 %, and
    values of one bench share its gain: at least 92 %. No value alone may have a root mean square above 1.5, or a mean
    beyond 4.9/√60 (1e-6)."""
    distances: dict[str, list[float]] = defaultdict(list)
    inside: dict[str, list[bool]] = defaultdict(list)
    for seed in range(100, 100 + BENCHES):
        options = hidden(seed)
        with make_device("emulator", n_inputs=4 + seed % 20, n_outputs=512, seed=seed, **options) as device:
            watch_s = (0.2 + 0.6 * (seed % 7) / 6) * options["medium"]["decorrelation_tau_s"]
            twin = fit(show_plan(device, Plan(watch_s=watch_s)))
        for name, true in known_values(twin).items():
            found = twin[name]
            if found.kind == "measured" and found.error > 0:
                distances[name].append((found.value - true) / found.error)
                inside[name].append(found.low <= true <= found.high)
    print(f"\n{BENCHES} benches")
    for name, values in distances.items():
        print(
            f"  {name:34} {len(values):3} told, {np.mean(inside[name]):5.0%} inside, distance {np.mean(values):+.2f} "
            f"± {math.sqrt(np.mean(np.square(values))):.2f} standard errors, most {np.abs(values).max():.1f}"
        )
    every = np.concatenate(list(inside.values()))
    print(f"  all: {len(every)} told, {every.mean():.1%} inside")
    assert every.mean() > 0.92
    for name, values in distances.items():
        assert math.sqrt(np.mean(np.square(values))) < 1.5, name
        assert abs(np.mean(values)) < 4.9 / math.sqrt(len(values)), name
