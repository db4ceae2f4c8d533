"""What a measurement of alignment found."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class GradientAlignment:
    """The gradient that a parameter, or all parameters of a module, got beside the true gradient of the same batch."""

    cosine: float
    """⟨g, g*⟩ / (‖g‖ ‖g*‖) of the gradient g and the true one g*."""
    norm_ratio: float
    """‖g‖ / ‖g*‖."""
    sign_agreement: float
    """Fraction of the entries with equal signs, of those where neither gradient is zero."""
    n_values: int


@dataclass(frozen=True)
class PointAlignment:
    """What a block got at its feedback point beside the true signal there, dL/dh: cosines for each sample, then mean.

    A sample is an index of the first dimension. Samples where either is zero are left out; NaN if that is all of them.
    """

    delta: float
    """Gradient alignment of arXiv 2011.12428, cos(δ, δ*): at the input of the point's module where that is an
    activation, so that δ holds its derivative, else at the module's output."""
    optical: float
    """cos of the feedback that the device gave with dL/dh, h the output of the point's module."""
    ternary: float | None
    """The same, had the device multiplied exactly; None if its matrix is not known."""
    exact: float | None
    """The same, had the error not been ternarised either."""


@dataclass(frozen=True)
class ProjectionAlignment:
    """What ternarisation and noise each do to the projection: cosines with exact products, for each sample, then mean.

    e is the error, t what was displayed for it, T the matrix of the device.
    """

    ternary: float
    """cos(T t, T e): ternarisation alone."""
    noise: float
    """cos(field, T t): the noise of the device alone."""
    expected_noise: float
    """(1 + 1/SNR)^(-1/2), what an SNR as measured should make of it."""
    optical: float
    """cos(field, T e): both."""
    snr_db: float
    """10 log₁₀(Σ (T t)² / Σ (field - T t)²), decibels; inf: exact."""
    dark: float
    """Fraction of the errors for which nothing was displayed."""


@dataclass(frozen=True)
class Alignment:
    """One measurement; `print` it."""

    step: int
    """Training steps before this one."""
    gradient: GradientAlignment
    """All parameters together."""
    delta: float
    """Gradient alignment of arXiv 2011.12428 of all points together: the signals of a sample joined into one vector."""
    weight: float | None
    """Weight alignment of all of `weights` together; None if there are none."""
    projection: ProjectionAlignment | None
    """None if the matrix of the device is not known."""
    points: Mapping[str, PointAlignment]
    weights: Mapping[str, float]
    """Weight alignment of arXiv 2011.12428 by parameter: the cosine of W with F_(l+1) F_lᵀ, of the top with F_Lᵀ, F_l
    (width, classes) the feedback matrix of point l. For weights that alone lie between two points."""
    layers: Mapping[str, GradientAlignment]
    """By module that holds parameters."""
    parameters: Mapping[str, GradientAlignment]

    def to_dict(self) -> dict[str, Any]:
        """Everything, in plain dicts."""
        return asdict(self)

    def to_json(self) -> str:
        """Everything, as one line of JSON; what is undefined or infinite is text, which `float` understands."""
        return json.dumps(_finite(self.to_dict()))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Alignment":
        """What `to_dict` gave, or `json.loads` of what `to_json` gave."""

        def gradient(found: Mapping[str, Any]) -> GradientAlignment:
            numbers = {name: float(found[name]) for name in ("cosine", "norm_ratio", "sign_agreement")}
            return GradientAlignment(**numbers, n_values=found["n_values"])

        def number(found: Any) -> Any:
            return None if found is None else float(found)

        def gradients(found: Mapping[str, Any]) -> dict[str, GradientAlignment]:
            return {name: gradient(one) for name, one in found.items()}

        points = {
            name: PointAlignment(**{key: number(value) for key, value in one.items()})
            for name, one in values["points"].items()
        }
        projection = values["projection"]
        return cls(
            step=values["step"],
            gradient=gradient(values["gradient"]),
            delta=float(values["delta"]),
            weight=number(values["weight"]),
            projection=projection and ProjectionAlignment(**{key: float(one) for key, one in projection.items()}),
            points=points,
            weights={name: float(one) for name, one in values["weights"].items()},
            layers=gradients(values["layers"]),
            parameters=gradients(values["parameters"]),
        )

    def scalars(self) -> dict[str, float]:
        """Every number under a name with slashes, `delta/1` for instance, for a logger."""
        return dict(_leaves("", {name: value for name, value in self.to_dict().items() if name != "step"}))

    def __str__(self) -> str:
        from optical_dfa.alignment.table import to_text

        return to_text(self)


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from _leaves(f"{prefix}/{name}" if prefix else name, one)
    elif value is not None:
        yield prefix, value


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
