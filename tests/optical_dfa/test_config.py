"""Configurations: what is read, and what is said about faults, with file, line and key."""

import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from optical_dfa.config import RunConfig, TernarizeConfig, load_config
from optical_dfa.config.yaml_marks import YamlSyntaxError, dump_yaml, parse_marked
from optical_dfa.devices import available_devices
from optical_dfa.encode import Ternarize
from optical_dfa.run_errors import ConfigError

SECTIONS = "task, model, training, feedback, device, alignment"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("run.yaml")


def faults(file: Path, text: str, *overrides: str) -> list[str]:
    """Lines of the message, without the heading that several faults have."""
    file.write_text(text, "utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(file, overrides)
    lines = str(caught.value).splitlines()
    if "faults in the configuration" in lines[0]:
        del lines[0]
    return [line.removeprefix("  ") for line in lines]


def test_defaults(file: Path) -> None:
    file.write_text("{}")
    config = load_config(file)
    assert config == RunConfig()
    assert config.device == {"name": "emulator"}
    assert config.feedback.ternarize is not None
    assert config.feedback.ternarize.kind == "relative"


@pytest.mark.parametrize(
    ("text", "value"), [("5e-4", 5e-4), ("1E3", 1000.0), (".5", 0.5), ("2.", 2.0), ("1", 1.0), ("+1.5e+0", 1.5)]
)
def test_numbers_as_people_write_them(file: Path, text: str, value: float) -> None:
    file.write_text(f"training: {{learning_rate: {text}}}")
    assert load_config(file).training.learning_rate == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"), ("yes", "yes"), ("12:30", "12:30"), ("1_000", "1_000"), ("010", 10), ("0x1F", 31), ("0o17", 15),
        ("~", None), ("", None), ("True", True), ("false", False), ("'5e-4'", "5e-4"), ("-.inf", float("-inf")),
        ("2026-01-01", "2026-01-01"), ("!!str 12", "12"), ("!!float 3", 3.0),
    ],
)  # fmt: skip
def test_core_schema(text: str, value: object) -> None:
    parsed = parse_marked(text).value
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("{depth: 3, width: 8}", (8, 8, 8)),
        ("{depth: 1}", (256,)),
        ("{width: 8}", (8, 8)),
        ("{depth: null}", (256, 256)),
    ],
)
def test_depth_and_width_are_written_out(file: Path, text: str, hidden: tuple[int, ...]) -> None:
    file.write_text(f"model: {text}")
    config = load_config(file)
    assert (config.model.hidden, config.model.depth, config.model.width) == (hidden, None, None)


def test_dump_is_read_back(file: Path) -> None:
    file.write_text("""
        task: {name: mnist, folder: 5e-4}
        model: {hidden: [3, 4], activation: relu}
        feedback: {ternarize: {kind: stochastic}}
        device: {name: emulator, preset: ideal, camera: {full_well_e: .inf}}
    """)
    config = load_config(file, ["task.folder='5e-4'"])
    assert config.task.folder == "5e-4"  # text that a careless dump would turn into a number
    file.write_text(config.to_yaml())
    assert load_config(file) == config
    tricky = {"a": ["off", "12:30", "5e-4", "1", "", "null", 1, 5e-4, 1e300, float("inf"), None, True, "ü", "a: b"]}
    assert parse_marked(dump_yaml(tricky)).value == tricky


def test_every_fault_at_once_with_its_line(file: Path) -> None:
    text = """\
task: {name: minst}
training:
  epoch: 3
  method: dfaa
  learning_rate: 1e-3
  learning_rate: fast
model:
  hidden: [64, "32", 0]
  activation: 7
feedback: {ternarize: {threshold: off}}
trainig: {}
device:
  name: emulater
"""
    assert faults(file, text) == [
        "run.yaml:1: task.name: must be one of digits, mnist, fashion-mnist, cifar10, cora; got 'minst'. Did you mean "
        "'mnist'?",
        "run.yaml:3: training.epoch: unknown key. Did you mean 'epochs'? Known here: method, epochs, batch_size, "
        "optimizer, learning_rate, seed, threads, checkpoint_every_steps, monitor_every_steps",
        "run.yaml:4: training.method: must be one of bp, dfa, shallow; got 'dfaa'. Did you mean 'dfa'?",
        "run.yaml:6: training.learning_rate: given twice, first in line 5: remove one",
        "run.yaml:8: model.hidden.1: input should be a valid integer; got '32'",
        "run.yaml:8: model.hidden.2: input should be greater than 0; got 0",
        "run.yaml:9: model.activation: must be one of tanh, relu, sigmoid; got 7.",
        "run.yaml:10: feedback.ternarize.threshold: input should be a valid number; got 'off'",
        "run.yaml:11: trainig: unknown key. Did you mean 'training'? Known here: task, model, training, feedback, "
        "device, alignment",
        "run.yaml:13: device.name: unknown device 'emulater'. Did you mean 'emulator'? Known: "
        f"{', '.join(entry.name for entry in available_devices())}",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {epochs: 0}", "training.epochs: input should be greater than 0; got 0"),
        ("training: {epochs: 3.0}", "training.epochs: input should be a valid integer; got 3.0"),
        ("training: {epochs: true}", "training.epochs: input should be a valid integer; got True"),
        ("training: {learning_rate: .nan}", "training.learning_rate: input should be a finite number; got nan"),
        ("training: {seed: -1}", "training.seed: input should be greater than or equal to 0; got -1"),
        ("model: {hidden: []}", "model.hidden: tuple should have at least 1 item after validation, not 0; got []"),
        (
            "task: {folder: x}",
            "task: task 'digits' comes with scikit-learn and takes no folder: remove it, or set name: mnist",
        ),
        ("task: {name: cifar10}", "task: task 'cifar10' is read from a folder with its binary version: set folder"),
        (
            "feedback: {ternarize: {threshold: 1.0}}",
            "feedback.ternarize: the threshold of kind relative must be below 1; got 1.0",
        ),
        (
            "feedback: {ternarize: {kind: stochastic, threshold: 0.1}}",
            "feedback.ternarize: kind stochastic takes no threshold; got 0.1: remove it",
        ),
        (
            "feedback: {ternarize: {bits: 3}}",
            "feedback.ternarize: kind relative and bits 3 do not go together: remove bits, or set kind: bit-planes",
        ),
        (
            "feedback: {ternarize: {kind: bit-planes}}",
            "feedback.ternarize: kind bit-planes and bits None do not go together: set bits, from 1 to 16",
        ),
        (
            "model: {hidden: [3], depth: 2, width: 4}",
            "model: depth and width and hidden say the same twice: remove the one or the other",
        ),
        ("model: {width: 0}", "model.width: input should be greater than 0; got 0"),
        (
            "feedback: {ternarize: null}",
            "feedback.ternarize: device 'emulator' takes ternary vectors only, null sends it the real error: "
            "remove the key, or use device 'digital'",
        ),
        ("device: {name: 3}", "device.name: must be the name of a device (optical-dfa devices lists them); got 3"),
        ("device: {n_inputs: 3}", "device.n_inputs: the net decides it: remove the key"),
        ("{1: 2}", "keys must be text; got 1: put it in quotes if it is meant"),
        ("{[1]: 2}", "keys must be text; got a list or mapping: put it in quotes if it is meant"),
    ],
)
def test_single_faults(file: Path, text: str, message: str) -> None:
    assert faults(file, text) == [f"run.yaml:1: {message}"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("preset: ideel", "unknown preset 'ideel'. Did you mean 'ideal'?"),
        ("camera: {read_noise: 3}", "camera.read_noise: unknown key. Did you mean 'read_noise_e'?"),
        ("seed: one", "seed must be"),
    ],
)
def test_device_options_are_checked_before_any_data(file: Path, options: str, message: str) -> None:
    text = f"task: {{name: mnist, folder: /no/such/folder}}\ndevice:\n  name: emulator\n  {options}\n"
    described = "\n".join(faults(file, text))
    assert described.startswith("run.yaml:")
    assert message in described


@pytest.mark.parametrize("kind", ["relative", "absolute", "stochastic"])
@pytest.mark.parametrize("threshold", [None, -0.1, 0.0, 0.5, 1.0, 3.0, math.inf, math.nan])
@pytest.mark.parametrize("seed", [-1, 0, 2**32 - 1, 2**32])
def test_ternarize_has_the_rules_of_the_encoder(kind: Any, threshold: float | None, seed: int) -> None:
    try:
        Ternarize(threshold, kind, seed)
    except ValueError:
        with pytest.raises(ValidationError):
            TernarizeConfig(kind=kind, threshold=threshold, seed=seed)
    else:
        TernarizeConfig(kind=kind, threshold=threshold, seed=seed)


def test_unused_device_may_take_no_real_error(file: Path) -> None:
    file.write_text("{training: {method: bp}, feedback: {ternarize: null}}")
    assert load_config(file).feedback.ternarize is None


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("training.epochs=3", ("training", "epochs"), 3),
        ("training.learning_rate=1e-2", ("training", "learning_rate"), 0.01),
        ("model.hidden=[8, 9]", ("model", "hidden"), (8, 9)),
        ("feedback.ternarize.kind=absolute", ("feedback", "ternarize", "kind"), "absolute"),
        ("device=digital", ("device",), {"name": "digital"}),
        ("device.seed=4", ("device",), {"name": "emulator", "seed": 4}),
        ("device={name: digital, seed: 4}", ("device",), {"name": "digital", "seed": 4}),
        ("task.name=mnist", ("task", "name"), "mnist"),
    ],
)
def test_set(file: Path, override: str, path: tuple[str, ...], value: object) -> None:
    file.write_text("feedback: {ternarize: null}\ntraining: {epochs: 7}")
    with_encoder = [] if path[0] == "feedback" else ["feedback.ternarize={}"]
    found: Any = load_config(file, [*with_encoder, override])
    for name in path:
        found = getattr(found, name)
    assert found == value


def test_later_set_wins_and_device_may_be_a_name(file: Path) -> None:
    file.write_text("device: digital")
    config = load_config(file, ["device.seed=1", "device.seed=2", "training.epochs=3", "training.epochs=4"])
    assert config.device == {"name": "digital", "seed": 2}
    assert config.training.epochs == 4


def test_faults_of_set_come_after_those_of_the_file(file: Path) -> None:
    text = "model: {hidden: [3]}\ntraining: {epochs: 0}\n"
    overrides = [
        "training.sed=1",
        "model.hidden.0=3",
        "training.seed",
        "a.=1",
        "training.method=[",
        "training.threads=x",
    ]
    assert faults(file, text, *overrides) == [
        "run.yaml:2: training.epochs: input should be greater than 0; got 0",
        "--set model.hidden.0=3: model.hidden is [3] and has no keys: set it as a whole",
        "--set training.seed: must be section.key=value, for instance training.epochs=3",
        "--set a.=1: must be section.key=value, for instance training.epochs=3",
        "--set training.method=[: the value is not valid YAML: expected the node content, but found '<stream end>'",
        "--set training.threads=x: training.threads: input should be a valid integer; got 'x'",
        "--set training.sed=1: training.sed: unknown key. Did you mean 'seed'? Known here: method, epochs, batch_size, "
        "optimizer, learning_rate, seed, threads, checkpoint_every_steps, monitor_every_steps",
    ]


def test_set_replaces_the_place_of_a_fault(file: Path) -> None:
    assert faults(file, "training:\n  epochs: 0\n", "training.epochs=-1") == [
        "--set training.epochs=-1: training.epochs: input should be greater than 0; got -1"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            f"run.yaml: must hold a mapping with the sections {SECTIONS}; it is empty",
        ),
        (
            "- 1",
            f"run.yaml: must hold a mapping with the sections {SECTIONS}; got [1]",
        ),
        ("a: 1\nb: [", "run.yaml:2: not valid YAML: expected the node content, but found '<stream end>'"),
        ("a: b: c", "run.yaml:1: not valid YAML: mapping values are not allowed here"),
        ("a: &x [*x]", "run.yaml:1: not valid YAML: an alias that contains itself"),
        ("a: *x", "run.yaml:1: not valid YAML: found undefined alias 'x'"),
        ("a: 1\n---\nb: 2", "run.yaml:2: not valid YAML: expected a single document in the stream, but found another"),
        (
            "a: !!python/name:os.system x",
            "run.yaml:1: not valid YAML: the tag 'tag:yaml.org,2002:python/name:os.system'",
        ),
        ("a: !!int x", "run.yaml:1: not valid YAML: 'x' is not a valid int"),
        ("[" * 5000, "run.yaml: not valid YAML: nested too deeply"),
        ("\x01", "run.yaml: not valid YAML: unacceptable character #x0001"),
    ],
)
def test_files_that_are_no_configuration(file: Path, text: str, message: str) -> None:
    assert faults(file, text)[0].startswith(message)


def test_unreadable_files(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"^run\.yaml: cannot be read: No such file or directory$"):
        load_config(file)
    with pytest.raises(ConfigError, match=r"^\.: cannot be read: Is a directory$"):
        load_config(".")
    file.write_bytes("ü".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"^run\.yaml: not UTF-8 text \(byte 0\)"):
        load_config(file)


def test_anchors_are_copies(file: Path) -> None:
    file.write_text("task: &empty {}\nmodel: *empty\n")
    config = load_config(file, ["task.name=mnist"])
    assert (config.task.name, config.model.hidden) == ("mnist", (256, 256))


def test_syntax_error_knows_its_line() -> None:
    with pytest.raises(YamlSyntaxError) as caught:
        parse_marked("a: 1\nb: 2\n\t: 3\n")
    assert caught.value.line == 3


def test_config_is_frozen_and_says_what_is_wrong_without_a_file() -> None:
    config = RunConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.training.epochs = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="unknown device 'digitl'"):
        RunConfig.model_validate({"device": "digitl"})
