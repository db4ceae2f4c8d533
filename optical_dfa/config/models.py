"""The configuration of a training run: what is learnt, by which net, how, and by which device. No torch.

Frozen; every key is known, typed and checked. `optical_dfa.config.load_config` reads it from YAML.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator

from optical_dfa.config.yaml_marks import dump_yaml
from optical_dfa.devices import DeviceError, DeviceInfo, UnknownDevice, check_device_config
from optical_dfa.devices.faults import Fault

Method = Literal["bp", "dfa", "shallow"]

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, ser_json_inf_nan="constants")


class TaskConfig(_Section):
    """What is learnt."""

    name: Literal["digits", "mnist", "fashion-mnist", "cifar10", "cora"] = "digits"
    """`digits` comes with scikit-learn; the others are read from `folder`, or, but for `cifar10` and the citation graph
    `cora`, downloaded once."""
    folder: str | None = None
    """Folder with the IDX files, the binary version of `cifar10`, or the files ind.cora.* of `cora`, absolute or
    relative to the current directory; null: download by scikit-learn."""

    @model_validator(mode="after")
    def _folder_where_there_are_files(self) -> Self:
        if self.name == "digits" and self.folder is not None:
            raise ValueError("task 'digits' comes with scikit-learn and takes no folder: remove it, or set name: mnist")
        if self.name == "cifar10" and self.folder is None:
            raise ValueError("task 'cifar10' is read from a folder with its binary version: set folder")
        if self.name == "cora" and self.folder is None:
            raise ValueError("task 'cora' is read from a folder with its eight files ind.cora.*: set folder")
        return self


class ModelConfig(_Section):
    """The net: linear layers with an activation after each but the last."""

    kind: Literal["mlp", "gcn"] = "mlp"
    """`gcn`: each layer also averages over the neighbours in the graph of task `cora`: graph convolutions."""
    hidden: Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1)] = (256, 256)
    """Widths of the hidden layers."""
    depth: PositiveInt | None = None
    """Short for `hidden`: that many layers, 2 if only `width` is given. Written out as `hidden`."""
    width: PositiveInt | None = None
    """Short for `hidden`: all layers of that width, 256 if only `depth` is given."""
    activation: Literal["tanh", "relu", "sigmoid"] = "tanh"

    @model_validator(mode="before")
    @classmethod
    def _written_out(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        short = {name: values[name] for name in ("depth", "width") if values.get(name) is not None}
        if not short:
            return values
        if "hidden" in values:
            raise ValueError(f"{' and '.join(short)} and hidden say the same twice: remove the one or the other")
        if not all(type(value) is int and value > 0 for value in short.values()):
            return values  # the fields say what is wrong with them
        rest = {name: value for name, value in values.items() if name not in ("depth", "width")}
        return {**rest, "hidden": [short.get("width", 256)] * short.get("depth", 2)}


class TrainingConfig(_Section):
    """How it is learnt."""

    method: Method = "dfa"
    """`bp`: backpropagation; `dfa`: direct feedback alignment; `shallow`: only the last layer learns."""
    epochs: PositiveInt = 10
    batch_size: PositiveInt = 128
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: PositiveFloat = 5e-4
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the initial weights and of the order of the data."""
    threads: PositiveInt | None = None
    """CPU threads of PyTorch; null: its own choice, which a resumed run keeps."""
    checkpoint_every_steps: PositiveInt | None = 500
    """Steps from checkpoint to checkpoint inside an epoch; null: only at the end of each epoch."""
    monitor_every_steps: PositiveInt | None = None
    """Steps from look to look at the health of the device; null: none. A look displays 24 vectors."""


class TernarizeConfig(_Section):
    """How the error is turned into -1, 0, +1. The rules are those of `optical_dfa.encode`, which needs torch."""

    threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """null: the default of the kind."""
    kind: Literal["relative", "absolute", "stochastic", "bit-planes"] = "relative"
    """`bit-planes` sends `bits` weighted vectors for each error, as `optical_dfa.BitPlanes` defines them."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the stochastic kind."""
    bits: Annotated[int, Field(ge=1, le=16)] | None = None
    """Of the kind `bit-planes`, which needs it."""

    @model_validator(mode="after")
    def _kind_takes_threshold(self) -> Self:
        if self.kind in ("stochastic", "bit-planes") and self.threshold is not None:
            raise ValueError(f"kind {self.kind} takes no threshold; got {self.threshold}: remove it")
        if (self.kind == "bit-planes") != (self.bits is not None):
            advice = "set bits, from 1 to 16" if self.bits is None else "remove bits, or set kind: bit-planes"
            raise ValueError(f"kind {self.kind} and bits {self.bits} do not go together: {advice}")
        if self.kind == "relative" and self.threshold is not None and self.threshold >= 1:
            raise ValueError(f"the threshold of kind relative must be below 1; got {self.threshold}")
        return self


class FeedbackConfig(_Section):
    """How the projected error reaches the hidden layers."""

    layout: Literal["shared", "independent"] = "shared"
    """`shared`: all layers read the same outputs of the device; `independent`: each its own."""
    ternarize: TernarizeConfig | None = TernarizeConfig()
    """null: the real error, for devices that accept it."""


class AlignmentConfig(_Section):
    """How alignment is measured during training; see `optical_dfa.alignment`."""

    every: PositiveInt = 100
    """Training steps from one measurement to the next."""
    tensorboard: bool = False
    """Write TensorBoard's event files, too."""


class FaultsError(ValueError):
    """Faults with their full paths, for a check that spans several keys."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


class RunConfig(_Section):
    """Everything that decides a training run."""

    task: TaskConfig = TaskConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    feedback: FeedbackConfig = FeedbackConfig()
    device: dict[str, Any] = Field(default={"name": "emulator"})
    """Name of the device (default `emulator`) and its options, or the name alone. Used by the method `dfa` only."""
    alignment: AlignmentConfig | None = None
    """null: alignment is not measured."""

    @field_validator("device", mode="before")
    @classmethod
    def _with_name(cls, device: Any) -> Any:
        if isinstance(device, str):
            return {"name": device}
        return {"name": "emulator", **device} if isinstance(device, dict) else device

    @field_validator("device")
    @classmethod
    def _can_be_made(cls, device: dict[str, Any]) -> dict[str, Any]:
        _device_info(device)
        return device

    @model_validator(mode="after")
    def _device_takes_the_error(self) -> Self:
        real_error = self.training.method == "dfa" and self.feedback.ternarize is None
        if real_error and not _device_info(self.device).accepts_real:
            message = (
                f"device {self.device['name']!r} takes ternary vectors only, null sends it the real error: "
                "remove the key, or use device 'digital'"
            )
            raise FaultsError([Fault(("feedback", "ternarize"), message)])
        return self

    @model_validator(mode="after")
    def _graph_convolutions_have_a_graph(self) -> Self:
        if self.model.kind == "gcn" and self.task.name != "cora":
            message = f"task {self.task.name!r} has no graph: remove the key, or set task.name: cora"
            raise FaultsError([Fault(("model", "kind"), message)])
        return self

    @model_validator(mode="after")
    def _alignment_is_that_of_feedback(self) -> Self:
        if self.alignment is not None and self.training.method != "dfa":
            message = (
                f"method {self.training.method!r} has no feedback: remove the section, or set training.method: dfa"
            )
            raise FaultsError([Fault(("alignment",), message)])
        return self

    def as_dict(self) -> dict[str, Any]:
        """Every value, defaults included, in plain dicts and lists."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """Every value, defaults included, as YAML that `load_config` reads back to an equal configuration."""
        return dump_yaml(self.as_dict())


def _device_info(device: dict[str, Any]) -> DeviceInfo:
    """What the device would be at size 1; opens nothing."""
    name, options = device.get("name"), {key: value for key, value in device.items() if key != "name"}
    if not isinstance(name, str):
        message = f"must be the name of a device (optical-dfa devices lists them); got {name!r}"
        raise FaultsError([Fault(("device", "name"), message)])
    if sizes := options.keys() & {"n_inputs", "n_outputs"}:
        raise FaultsError([Fault(("device", key), "the net decides it: remove the key") for key in sorted(sizes)])
    try:
        return check_device_config(name, **options)
    except UnknownDevice as error:
        raise FaultsError([Fault(("device", "name"), str(error))]) from None
    except DeviceError as error:
        faults = [Fault(("device", *fault.path), fault.message) for fault in getattr(error, "faults", ())]
        raise FaultsError(faults or [Fault(("device",), str(error))]) from None
