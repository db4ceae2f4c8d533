"""A study as a file says it: a base, what is varied, by which methods, with which seeds. No torch."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator

Scalar = bool | int | float | str | None

Overrides = dict[str, Any]
"""Dotted key of a training configuration → its value."""

Seed = Annotated[int, Field(ge=0, lt=2**63)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Level(_Section):
    """One value of a factor, and what it changes."""

    value: Scalar
    """What stands in the table and on the axis."""
    set: Annotated[Overrides, Field(min_length=1)]
    """The keys that it changes together."""


class Factor(_Section):
    """What is varied: one key over some values, or several keys together over some levels."""

    path: str | None = None
    """Dotted key of a training configuration; with `values`."""
    values: Annotated[list[Any], Field(min_length=1)] | None = None
    levels: Annotated[list[Level], Field(min_length=1)] | None = None
    """Instead of `path` and `values`."""
    base: Scalar = None
    """Level around which `one-at-a-time` varies the others; null: the first."""
    label: str | None = None
    """Of the axis; null: the name of the factor."""
    scale: Literal["linear", "log"] | None = None
    """Of the axis; null: `log` for positive numbers that span a factor of 20 or more."""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.path is None) != (self.values is None) or (self.values is None) == (self.levels is None):
            raise ValueError("give either path and values, or levels")
        shown = [level.value for level in self.resolved()]
        if len(set(map(repr, shown))) < len(shown):
            raise ValueError(f"the same value twice in {shown}: remove one")
        if self.base is not None and repr(self.base) not in map(repr, shown):
            raise ValueError(f"base {self.base!r} is none of the values {shown}")
        return self

    def resolved(self) -> list[Level]:
        """The levels, also of a factor that was given by path and values."""
        if self.levels is not None:
            return self.levels
        assert self.path is not None
        assert self.values is not None
        return [Level(value=shown(value), set={self.path: value}) for value in self.values]

    @property
    def base_index(self) -> int:
        """Which level is the base."""
        if self.base is None:
            return 0
        return [repr(level.value) for level in self.resolved()].index(repr(self.base))


def shown(value: Any) -> Scalar:
    """A value of a configuration as a table shows it: itself, or the text of a list or mapping."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return "-".join(str(shown(item)) for item in value)
    return ", ".join(f"{key} {shown(item)}" for key, item in value.items())


class Range(_Section):
    """Where a number is searched."""

    low: float | int
    high: float | int
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low must be below high; got {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range must be above 0; got {self.low}")
        return self


class TuneConfig(_Section):
    """What `optical-dfa tune` searches, for each method by itself."""

    space: Annotated[dict[str, Range | Annotated[list[Scalar], Field(min_length=2)]], Field(min_length=1)]
    """Dotted key → range or choices."""
    trials: PositiveInt = 30
    """Per method."""
    seeds: Annotated[list[Seed], Field(min_length=1)] = [1000]  # frozen
    """Each trial is the mean over these; others than the study's, so that it is not tuned to its own draws."""
    sampler: Literal["tpe", "random", "cmaes"] = "tpe"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of the sampler."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Part of the training images that is held out and decides; the test images are not looked at."""
    methods: list[str] | None = None
    """null: all of the study."""


class StudyConfig(_Section):
    """Everything that decides a study."""

    title: str
    question: str = ""
    """What it is to answer; stands at the head of the report."""
    base: dict[str, Any] = {}  # frozen
    """A training configuration."""
    methods: Annotated[dict[str, Overrides], Field(min_length=1)] = {"DFA": {}}
    """Name → what it changes in the base."""
    factors: dict[str, Factor] = {}
    design: Literal["grid", "one-at-a-time"] = "grid"
    """`grid`: every combination of levels; `one-at-a-time`: each factor by itself, the others at their base."""
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0, 1, 2]
    """Each condition is run with each. Seeds weights, order of the data, matrix and noise."""
    attempts: PositiveInt = 3
    """How often a cell that fails is tried."""
    tuned: str | None = None
    """File that `optical-dfa tune` wrote, relative to this one: applied to each method it names."""
    tune: TuneConfig | None = None

    @field_validator("factors", mode="before")
    @classmethod
    def _short_form(cls, factors: Any) -> Any:
        if not isinstance(factors, dict):
            return factors
        return {
            name: {"path": name, "values": factor} if isinstance(factor, list) else factor
            for name, factor in factors.items()
        }

    @model_validator(mode="after")
    def _names(self) -> Self:
        if taken := RESERVED & self.factors.keys():
            raise ValueError(
                f"{', '.join(sorted(taken))}: columns of the table have that name, call the factor otherwise"
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"the same seed twice in {self.seeds}")
        if self.tune and (unknown := set(self.tune.methods or ()) - self.methods.keys()):
            raise ValueError(f"tune.methods: no method {', '.join(sorted(unknown))}; known: {', '.join(self.methods)}")
        return self

    def base_levels(self) -> dict[str, Level]:
        """The base level of each factor."""
        return {name: factor.resolved()[factor.base_index] for name, factor in self.factors.items()}


RESERVED = frozenset(
    ["cell", "state", "method", "seed", "test_accuracy", "train_loss", "train_accuracy", "alignment", "snr_db"]
)
"""Columns of the table that no factor may be called."""
