"""What is asked of the emulator, as data: each quantity with the value it must reach and the one aimed at."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from optical_dfa.bench.effects import DRIFT, EFFECTS, GRAINS, NONE

Pair = tuple[str, str]
"""What is measured, and what it is divided by: names of `contenders`."""


@dataclass(frozen=True)
class Quantity:
    """One thing that is measured on some jobs. Smaller is better, except for GMAC/s, which have no bar."""

    name: str
    group: str
    """Heading of the table it belongs to."""
    title: str
    unit: str
    """`ratio` (of process CPU time), `ns` (difference of CPU time, an output), `GMAC/s`, `s` or `MB`."""
    jobs: tuple[str, ...]
    """Jobs that the bar holds for."""
    reported: tuple[str, ...] = ()
    """Jobs measured beside them."""
    pair: Pair | None = None
    """Of a ratio or a difference."""
    must: Mapping[str, float] = field(default_factory=dict)
    """Largest value accepted, by setting of OPENBLAS_CORETYPE; `any` where it does not matter. Empty: no bar."""
    aim: Mapping[str, float] = field(default_factory=dict)
    """The value aimed at, likewise."""

    def bar(self, job: str, setting: str) -> tuple[float | None, float | None]:
        """The values (must, aim) for a job under a setting; None where there is none."""
        if job not in self.jobs:
            return None, None
        return self.must.get(setting), self.aim.get(setting)


def _both(value: float) -> dict[str, float]:
    return {"Haswell": value, "unset": value}


G1, FIELD, VENDOR, CAMERA, EFFECT, REST = (
    "G1: one real float32 GEMM by NumPy, T stored",
    "Exact complex field: NumPy with T stored as int8, Numba without T",
    "Against the vendor's simulator: noiseless, stored complex64",
    "Camera, end to end: noisy, 8 bits",
    "Effects of the bench: ternary vectors, 4-step, each effect alone",
    "Memory and start",
)
"""Headings of the tables."""

FREE_OF_BAR = (DRIFT, *GRAINS)
"""Effects that take a second product, or more pixels or modes for an output."""

QUANTITIES = (
    Quantity(
        "g1",
        G1,
        "G1",
        "GMAC/s",
        jobs=(),
        reported=("feedback", "tiny", "mid", "large", "vocabulary", "square", "one", "sparse", "camera"),
    ),
    Quantity(
        "field-numpy",
        FIELD,
        "NumPy, stored / G1",
        "ratio",
        jobs=("tiny", "mid", "large"),
        reported=("feedback",),
        pair=("numpy", "g1"),
        must=_both(2.4),
        aim=_both(2.05),
    ),
    Quantity(
        "field-numba",
        FIELD,
        "Numba / G1",
        "ratio",
        jobs=("tiny", "mid", "large", "vocabulary", "square"),
        reported=("feedback",),
        pair=("numba", "g1"),
        must={"Haswell": 0.45, "unset": 0.70},
        aim={"Haswell": 0.31, "unset": 0.55},
    ),
    Quantity(
        "field-batch-1",
        FIELD,
        "Numba, batch 1 / G1",
        "ratio",
        jobs=("one",),
        reported=("sparse",),
        pair=("numba", "g1"),
        must=_both(1.2),
        aim=_both(0.9),
    ),
    Quantity(
        "field-vendor-tiny",
        VENDOR,
        "exact field / vendor transform",
        "ratio",
        jobs=("peer-tiny",),
        pair=("auto", "vendor"),
        must=_both(1.0),
        aim=_both(0.4),
    ),
    Quantity(
        "field-vendor-mid",
        VENDOR,
        "exact field / vendor transform",
        "ratio",
        jobs=("peer-mid",),
        pair=("auto", "vendor"),
        must={"Haswell": 0.14},
        aim={"Haswell": 0.08},
    ),
    Quantity(
        "vendor-g1",
        VENDOR,
        "vendor transform / G1",
        "ratio",
        jobs=(),
        reported=("peer-tiny", "peer-mid"),
        pair=("vendor", "g1"),
    ),
    Quantity(
        "intensity-numba",
        CAMERA,
        "intensity, Numba / G1",
        "ratio",
        jobs=("camera",),
        pair=("intensity-numba", "g1"),
        must={"Haswell": 0.7},
        aim={"Haswell": 0.5},
    ),
    Quantity("intensity-numpy", CAMERA, "intensity, NumPy / G1", "ratio", (), ("camera",), ("intensity-numpy", "g1")),
    Quantity(
        "four-step-numba",
        CAMERA,
        "4-step, Numba / G1",
        "ratio",
        jobs=("camera",),
        pair=("four-step-numba", "g1"),
        must={"Haswell": 1.5},
        aim={"Haswell": 1.15},
    ),
    Quantity("four-step-numpy", CAMERA, "4-step, NumPy / G1", "ratio", (), ("camera",), ("four-step-numpy", "g1")),
    Quantity(
        "ternary-numba",
        CAMERA,
        "ternary 4-step, Numba / G1",
        "ratio",
        jobs=("camera",),
        pair=("ternary-numba", "g1"),
        must={"Haswell": 2.6},
    ),
    Quantity("ternary-numpy", CAMERA, "ternary 4-step, NumPy / G1", "ratio", (), ("camera",), ("ternary-numpy", "g1")),
    Quantity(
        "seam",
        CAMERA,
        "4-step, Numba / its kernels alone",
        "ratio",
        jobs=("camera",),
        pair=("four-step-numba", "four-step-kernels"),
        must=_both(1.1),
    ),
    *(
        Quantity(
            f"statistical-{sides}{short}",
            CAMERA,
            f"fidelity statistical, vectors of {sides} side{'s' * (sides == 'two')} {title}",
            unit,
            jobs=(job,),
            pair=(f"statistical {sides}-sided", f"product {sides}-sided"),
            must=_both(must),
            aim=_both(aim) if aim else {},
        )
        for short, title, unit, job, must, aim in (
            ("", "/ exact product", "ratio", "statistical", 1.5, 1.2),
            ("-ns", "beyond the exact product, ns an output", "ns", "statistical-mid", 6.0, None),
        )
        for sides in ("one", "two")
    ),
    *(
        Quantity(
            f"effect-{name.replace(' ', '-')}",
            EFFECT,
            f"{name} / without",
            "ratio",
            jobs=() if name in FREE_OF_BAR else ("effects",),
            reported=("effects",) if name in FREE_OF_BAR else (),
            pair=(f"effect {name}", f"effect {NONE}"),
            must={} if name in FREE_OF_BAR else _both(1.2),
        )
        for name in EFFECTS
        if name != NONE
    ),
    Quantity(
        "drift-g1",
        EFFECT,
        "4-step of binary patterns with decorrelation / G1",
        "ratio",
        jobs=("effects",),
        pair=(f"binary {DRIFT}", "g1"),
        must={"Haswell": 1.85},  # 1.5, and .35 for the product with the second matrix
    ),
    Quantity(
        "memory",
        REST,
        "Numba product beyond input and output",
        "MB",
        jobs=("memory-square", "memory-wide"),
        must={"any": 64},
        aim={"any": 8},
    ),
    Quantity("first-call", REST, "first product, nothing cached", "s", jobs=("start",), must={"any": 5}),
    Quantity("cached-call", REST, "first product, kernels cached", "s", jobs=(), reported=("start",)),
    Quantity("import", REST, "import of optical_dfa beyond torch", "s", jobs=("import",), must={"any": 1.5}),
    Quantity("full", REST, "full product, two threads, wall", "s", jobs=("full",), must={"any": 600}, aim={"any": 360}),
)


def pairs_of(job: str) -> list[Pair]:
    """The pairs to measure on a job, each once."""
    found = [quantity.pair for quantity in QUANTITIES if job in quantity.jobs + quantity.reported and quantity.pair]
    return list(dict.fromkeys(found))
