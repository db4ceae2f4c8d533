"""The jobs of the benchmark, as data: sizes, and the process that measures them."""

from dataclasses import dataclass, replace
from typing import Literal

SETTINGS: dict[str, str | None] = {"Haswell": "Haswell", "unset": None}
"""Values of OPENBLAS_CORETYPE by the name of the setting: held at AVX2, and as OpenBLAS chooses for the CPU."""

Kind = Literal["pairs", "memory", "start", "import", "full"]


@dataclass(frozen=True)
class Job:
    """One product, or what surrounds it."""

    name: str
    n_in: int
    """Inputs; 0 where a job has no size."""
    n_pixels: int
    """Camera pixels of one mode each: half the rows of T."""
    batch: int
    kind: Kind = "pairs"
    lit: float = 1.0
    """Fraction of the inputs that are not zero, the same ones in the whole batch."""
    needs_peer: bool = False
    """Runs in the interpreter that has the vendor's simulator."""

    @property
    def settings(self) -> tuple[str, ...]:
        """Settings of OPENBLAS_CORETYPE that it is measured under: none matters where OpenBLAS does nothing."""
        return tuple(SETTINGS) if self.kind == "pairs" else ("any",)

    def scaled(self, scale: float) -> "Job":
        """The job with all sizes multiplied, each at least 1."""
        n_in, n_pixels, batch = (
            size and max(1, round(size * scale)) for size in (self.n_in, self.n_pixels, self.batch)
        )
        return replace(self, n_in=n_in, n_pixels=n_pixels, batch=batch)


JOBS = {
    job.name: job
    for job in (
        Job("feedback", 10, 256, 128),
        Job("tiny", 10, 2048, 128),
        Job("mid", 1000, 10_000, 256),
        Job("large", 4096, 65_536, 256),
        Job("vocabulary", 50_257, 4096, 512),
        Job("square", 65_536, 65_536, 64),
        Job("one", 8192, 8192, 1),
        Job("sparse", 8192, 8192, 1, lit=0.05),
        Job("camera", 1000, 10_000, 256),
        Job("effects", 1000, 10_000, 256),
        Job("statistical", 4096, 16_384, 256),
        Job("statistical-mid", 1000, 10_000, 256),
        Job("peer-tiny", 10, 2048, 128, needs_peer=True),
        Job("peer-mid", 1000, 10_000, 256, needs_peer=True),
        Job("memory-square", 65_536, 65_536, 64, "memory"),
        Job("memory-wide", 1_000_000, 2048, 64, "memory"),
        Job("start", 64, 512, 64, "start"),
        Job("import", 0, 0, 0, "import"),
        Job("full", 1_000_000, 2_000_000, 64, "full"),
    )
}
"""By name. `full` is left out unless asked for: it takes over ten minutes."""
