"""The examples of the documentation run and print what their pages show; the reference lists all there is."""

import dataclasses
import json
import math
import re
import shlex
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import typer.main
import yaml
from fake_cupy import Fake, installed
from pydantic import BaseModel
from rows import FAILS_WITH_TINY, ROWS
from typer.testing import CliRunner

import optical_dfa
import optical_dfa.devices
import optical_dfa.emulator
from optical_dfa import errors, run_errors
from optical_dfa.cli import app
from optical_dfa.config import AlignmentConfig, RunConfig, load_config
from optical_dfa.data import load_task
from optical_dfa.devices import (
    DeviceInfo,
    ProjectionDevice,
    Usage,
    available_devices,
    check_device_config,
    preset_names,
)
from optical_dfa.devices import errors as device_errors
from optical_dfa.study.file import load_study
from optical_dfa.study.models import Factor, StudyConfig, TuneConfig

ROOT = Path(__file__).parents[2]
HOW_TO = ROOT / "docs" / "how-to"
REFERENCE = (ROOT / "docs" / "reference.md").read_text("utf-8")

NUMBER = re.compile(r"-?\d[\d,]*(\.\d+)?")


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in that language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def printed_blocks(page: Path) -> str:
    """What the page says its Python examples print: the text blocks right behind them."""
    shown = re.findall(r"^```python\n.*?^```\n\n```text\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return "".join(shown)


def numbers(text: str) -> list[float]:
    return [float(match[0].replace(",", "")) for match in NUMBER.finditer(text)]


def assert_shown(page: Path, printed: str) -> None:
    """The page shows what was printed, whatever the numbers: accuracies and times differ from machine to machine."""
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", printed_blocks(page))


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder, one thread, and PyTorch as it was."""
    monkeypatch.chdir(tmp_path)
    torch._dynamo.reset()  # attach would warn of what an earlier test compiled
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(threads)


def test_readme(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks(ROOT / "README.md", "python")
    torch.manual_seed(0)
    loader = [(torch.randn(32, 784), torch.randint(10, (32,))) for _ in range(3)]
    exec(example, {"loader": loader})
    assert "feedback at '3'" in capsys.readouterr().out


def test_tutorial(capsys: pytest.CaptureFixture[str]) -> None:
    page = ROOT / "docs" / "tutorial.md"
    exec("\n".join(blocks(page, "python")), {})
    printed = capsys.readouterr().out
    assert_shown(page, printed)
    accuracy = [float(number) for number in re.findall(r": ([\d.]+)% of the test images", printed)]
    dfa, bp, shallow, digital, little_noise, much_noise = accuracy
    # one accuracy of 360 images is known to 1.2 points (1 σ); that all are of the same images makes differences tighter
    assert min(bp, dfa, digital) > shallow
    assert dfa == pytest.approx(digital, abs=2)
    assert dfa == pytest.approx(little_noise, abs=2)
    assert much_noise < little_noise + 2


def test_findings(capsys: pytest.CaptureFixture[str]) -> None:
    page = ROOT / "docs" / "findings.md"
    exec("\n".join(blocks(page, "python")), {})
    printed = capsys.readouterr().out
    assert printed == printed_blocks(page)
    four_steps, anchored = (float(number) for number in re.findall(r"constant (\S+)", printed))
    assert four_steps == 0

    def cut(mean_e: float, noise_e: float = 13.0) -> float:
        """What cutting off below zero adds to the mean of a normal reading."""
        z = mean_e / noise_e
        density, below = math.exp(-z * z / 2) / math.sqrt(2 * math.pi), math.erfc(z / math.sqrt(2)) / 2
        return noise_e * density - mean_e * below

    # a feature of 1 e-; the brighter of two anchors of 6 e- has 9 on average
    assert anchored == pytest.approx((cut(10) - cut(1) - cut(9)) / (2 * math.sqrt(9)), abs=0.3)


def test_see_who_learns_what(capsys: pytest.CaptureFixture[str]) -> None:
    page = HOW_TO / "see-who-learns-what.md"
    exec("\n".join(blocks(page, "python")), {})
    printed, shown = capsys.readouterr().out, printed_blocks(page)
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown)
    assert numbers(printed) == pytest.approx(numbers(shown), abs=0.11)  # rounding differs from CPU to CPU, and training
    assert "feedback at 5 (Tanh)" in Path("net.svg").read_text("utf-8")


def test_explanation(capsys: pytest.CaptureFixture[str]) -> None:
    """Decibels are shown to 0.1; elsewhere the noise may differ in the last bits of a float32."""
    page = ROOT / "docs" / "explanation.md"
    exec("\n".join(blocks(page, "python")), {})
    printed, shown = capsys.readouterr().out, printed_blocks(page)
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown)
    assert numbers(printed) == pytest.approx(numbers(shown), abs=0.11)


def test_feedback(capsys: pytest.CaptureFixture[str]) -> None:
    """Accuracies of 360 images within 2.5 points, 2 σ; what is not a number to the letter."""
    page = ROOT / "docs" / "feedback.md"
    exec("\n".join(blocks(page, "python")), {})
    printed, shown = capsys.readouterr().out, printed_blocks(page)
    assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", shown).split()
    assert numbers(printed) == pytest.approx(numbers(shown), abs=2.5)


def test_the_codes_of_findings_are_listed() -> None:
    source = (ROOT / "optical_dfa" / "validation.py").read_text("utf-8") + (
        ROOT / "optical_dfa" / "calls.py"
    ).read_text()
    codes = set(re.findall(r'(?:Finding\(|Fault\(|trace\.add\()\s*"([a-z-]+)"', source))
    page = (ROOT / "docs" / "feedback.md").read_text("utf-8")
    rows = "".join(re.findall(r"^\| (`.*?) \| (?:error|warning|note) ", page, re.MULTILINE))
    assert set(re.findall(r"`([a-z-]+)`", rows)) == codes


def test_compatibility_names_tests_that_exist() -> None:
    """And rows that fail elsewhere are those of which a test says so."""
    page = (ROOT / "docs" / "compatibility.md").read_text("utf-8")
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)(?:\[(\w+)\])?`", page)
    assert len(named) > 40
    for file, test, row in named:
        source = (ROOT / "tests" / "optical_dfa" / file).read_text("utf-8")
        assert f"def {test}(" in source, test
        assert not row or row in ROWS
    listed = {row for _, _, row in named if row}
    assert listed == set(ROWS)
    failing = re.findall(r"\| fails \| `test_rows\.py::test_row\[(\w+)\]`", page)
    assert sorted(failing) == sorted(FAILS_WITH_TINY)


def test_emulate_on_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    """On the fake GPU of the tests."""
    page = HOW_TO / "emulate-on-a-gpu.md"
    with installed(Fake()):
        exec("\n".join(blocks(page, "python")), {})
    assert capsys.readouterr().out == printed_blocks(page)


def test_overlap_the_device(capsys: pytest.CaptureFixture[str]) -> None:
    """Times are those of the machine; that the gradients are equal is not."""
    page = HOW_TO / "overlap-the-device.md"
    exec("\n".join(blocks(page, "python")), {})
    assert_shown(page, capsys.readouterr().out)


def test_readouts(capsys: pytest.CaptureFixture[str]) -> None:
    """Decibels to 0.1, what was chosen to 1 %."""
    page = ROOT / "docs" / "readouts.md"
    exec("\n".join(blocks(page, "python")), {})
    printed, shown = capsys.readouterr().out, printed_blocks(page)
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown)
    assert numbers(printed) == pytest.approx(numbers(shown), rel=0.01, abs=0.11)


def test_add_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The page's package, laid out as pip installs it, is found by its entry point."""
    page = HOW_TO / "add-a-device.md"
    module, use, check, conform = blocks(page, "python")
    (project,) = (tomllib.loads(block) for block in blocks(page, "toml"))
    (device,) = re.findall(r"class (\w+)\(ProjectionDevice\)", module)

    (tmp_path / "lab_devices.py").write_text(module, "utf-8")
    package = tmp_path / f"lab_devices-{project['project']['version']}.dist-info"
    package.mkdir()
    name = project["project"]["name"]
    (package / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    ((group, entries),) = project["project"]["entry-points"].items()
    (package / "entry_points.txt").write_text(f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items()))
    assert project["tool"]["setuptools"]["py-modules"] == ["lab_devices"]
    monkeypatch.syspath_prepend(tmp_path)

    (announced,) = (entry for entry in available_devices() if entry.source == name)
    assert list(entries) == [announced.name]
    exec(use, {})
    exec(f"{check}\n{conform}", {})
    del sys.modules["lab_devices"]
    assert_shown(page, capsys.readouterr().out)
    for number, text in enumerate(blocks(page, "yaml")):
        assert load(text, tmp_path / f"{number}.yaml").device["name"] == announced.name
    assert device in entries[announced.name]


def load(text: str, path: Path) -> RunConfig:
    path.write_text(text, "utf-8")
    return load_config(path)


def test_configure_a_run(tmp_path: Path) -> None:
    page = HOW_TO / "configure-a-run.md"
    first, every_key = blocks(page, "yaml")
    load(first, tmp_path / "small.yaml")
    config = load(every_key, tmp_path / "full.yaml")
    assert keys_of(yaml.safe_load(every_key)) >= set(leaf_keys(RunConfig)) - {"device"}, "the file shows every key"

    (write_images,) = blocks(page, "python")
    exec(write_images, {})
    task = load_task(config.task.name, config.task.folder)
    assert (task.train_images.shape, len(task.test_images), task.n_classes) == ((1437, 64), 360, 10)

    (wrong,) = re.findall(r"^\$ cat wrong\.yaml\n(.*?)^\$ (.*?)\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    text, command, message = wrong
    Path("wrong.yaml").write_text(text, "utf-8")
    with pytest.raises(run_errors.ConfigError) as raised:
        load_config("wrong.yaml", [command.partition("--set ")[2]])
    assert f"error: {raised.value}\n" == message


def test_measure_the_emulator(capsys: pytest.CaptureFixture[str]) -> None:
    page = HOW_TO / "measure-the-emulator.md"
    (example,) = blocks(page, "python")
    exec(example, {})
    assert_shown(page, capsys.readouterr().out)


def test_measure_a_matrix(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    page = HOW_TO / "measure-a-matrix.md"
    (console,) = blocks(page, "console")
    command, shown = re.split(r"(?<!\\)\n", console, maxsplit=1)
    monkeypatch.setenv("COLUMNS", "80")
    result = CliRunner().invoke(app, shlex.split(command.replace("\\\n", ""))[2:])
    printed = "".join(f"{line.rstrip()}\n" for line in result.output.splitlines() if line.strip())
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown)
    assert Path("singular-values.png").exists()
    exact = [number for line in shown.splitlines()[4:] for number in numbers(line)]
    assert [number for line in printed.splitlines()[4:] for number in numbers(line)] == pytest.approx(exact, abs=0.11)

    (section,) = blocks(page, "yaml")
    assert load(section, tmp_path / "run.yaml").device == {"name": "measured", "path": "matrix.safetensors"}
    (example,) = blocks(page, "python")
    exec(example, {})
    assert_shown(page, capsys.readouterr().out)


def test_estimate_the_cost(capsys: pytest.CaptureFixture[str]) -> None:
    page = HOW_TO / "estimate-the-cost.md"
    (example,) = blocks(page, "python")
    exec(example, {})
    assert capsys.readouterr().out == printed_blocks(page)


def test_run_a_study(tmp_path: Path) -> None:
    texts = blocks(HOW_TO / "run-a-study.md", "yaml")
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.yaml").write_text(text, "utf-8")
        assert load_study(tmp_path / f"{number}.yaml").cells
    assert len(texts) == 3


def test_the_reference_has_every_key_of_a_study() -> None:
    section = REFERENCE.partition("\n## Studies\n")[2].partition("\n## ")[0]
    keys = [*StudyConfig.model_fields, *Factor.model_fields, *TuneConfig.model_fields]
    assert [key for key in keys if not re.search(rf"[`.]{key}`", section)] == []


def test_look_at_a_bench(capsys: pytest.CaptureFixture[str]) -> None:
    page = HOW_TO / "look-at-a-bench.md"
    (example,) = blocks(page, "python")
    exec(example, {})
    shown = capsys.readouterr().out
    assert_shown(page, shown)
    # noise of one backend differs from that of another by a digital number here and there
    assert numbers(shown) == pytest.approx(numbers(printed_blocks(page)), abs=0.11)


def test_make_a_digital_twin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers to 3 %, half an interval: noise of one backend differs from that of another by a digital number."""
    page = HOW_TO / "make-a-digital-twin.md"
    exec("\n".join(blocks(page, "python")), {})
    printed, shown = capsys.readouterr().out, printed_blocks(page)
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown)
    assert numbers(printed) == pytest.approx(numbers(shown), rel=0.03, abs=0.002)
    for text in blocks(page, "yaml"):
        section = yaml.safe_load(text)["device"]
        path = str(Path("small-twin", "preset.yaml"))
        options = json.loads(json.dumps(section).replace("twin/preset.yaml", path))
        assert check_device_config(options.pop("name"), **options).name == "emulator"


@pytest.mark.parametrize("name", ["use-your-own-bench", "check-a-device", "record-and-replay", "when-a-device-fails"])
def test_hardware_in_the_loop(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed is what the page shows, to the letter; its configurations are valid."""
    page = HOW_TO / f"{name}.md"
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    exec("\n".join(blocks(page, "python")), {})
    assert capsys.readouterr().out == printed_blocks(page)
    for number, text in enumerate(blocks(page, "yaml")):
        load(text, tmp_path / f"{number}.yaml")


def test_check_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of the page, but for throughput."""
    (console,) = blocks(HOW_TO / "check-a-device.md", "console")
    command, shown = console.split("\n", maxsplit=1)
    monkeypatch.setenv("COLUMNS", "100")
    result = CliRunner().invoke(app, shlex.split(command)[2:])
    printed, expected = ([line.split() for line in text.splitlines()] for text in (result.output, shown))
    assert [line[0] for line in printed] == [line[0] for line in expected]
    timed = [line[0] for line in expected].index("throughput,")
    assert printed[:timed] + printed[timed + 1 :] == expected[:timed] + expected[timed + 1 :]
    assert Path("check/check.png").exists()


def keys_of(values: dict[str, Any], prefix: str = "") -> set[str]:
    """Dotted keys of nested mappings."""
    keys: set[str] = set()
    for key, value in values.items():
        keys |= {prefix + key} | (keys_of(value, f"{prefix}{key}.") if isinstance(value, dict) else set())
    return keys


def leaf_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted keys of a configuration, without those of sections."""
    for name, field in model.model_fields.items():
        if section := section_of(field.annotation):
            yield from leaf_keys(section, f"{prefix}{name}.")
        else:
            yield prefix + name


def section_of(annotation: Any) -> type[BaseModel] | None:
    kinds = [annotation, *getattr(annotation, "__args__", ())]  # `Section | None` is a section too
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def row(section: str, first_cell: str) -> list[str]:
    """The row of that section of the reference that begins with this cell."""
    text = REFERENCE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith(f"| {first_cell} |")]
    assert len(lines) == 1, f"{first_cell}: {len(lines)} rows in section {section!r}"
    return [cell.strip() for cell in lines[0].split("|")[1:-1]]


@pytest.mark.parametrize("key", [*leaf_keys(RunConfig)])
def test_the_reference_has_every_configuration_key_with_its_default(key: str) -> None:
    default: Any = RunConfig(alignment=AlignmentConfig() if key.startswith("alignment.") else None).as_dict()
    for name in key.split("."):
        default = default[name]
    given = row("Configuration", f"`{key}`")[2].strip("`")
    assert (given if isinstance(default, str) else yaml.safe_load(given)) == default


def preset_values() -> dict[str, dict[str, str]]:
    """Dotted key → preset → the value as its YAML file writes it."""
    values: dict[str, dict[str, str]] = {}
    for preset in preset_names():
        section = ""
        for line in resources.files("optical_dfa.devices.presets").joinpath(f"{preset}.yaml").read_text().splitlines():
            key, _, value = line.partition("#")[0].partition(":")
            if not key.startswith(" "):
                section = key
            elif key.strip():
                values.setdefault(f"{section}.{key.strip()}", {})[preset] = value.strip()
    return values


@pytest.mark.parametrize("key", [*preset_values()])
def test_the_reference_has_every_preset_value(key: str) -> None:
    cells = zip(row("Presets", "value"), row("Presets", f"`{key}`"), strict=True)
    shown = {name.strip("`"): cell.strip("`") for name, cell in cells}
    assert preset_values()[key].items() <= shown.items()


@pytest.mark.parametrize("package", [optical_dfa, optical_dfa.devices, optical_dfa.emulator], ids=lambda p: p.__name__)
def test_the_reference_names_all_that_is_public(package: ModuleType) -> None:
    named = set(re.findall(r"`(\w+)(?:\([^`]*\))?`", REFERENCE)) | set(re.findall(r"[├└]── (\w+)", REFERENCE))
    assert set(package.__all__) - named == set()


@pytest.mark.parametrize("record", [DeviceInfo, Usage], ids=lambda record: record.__name__)
def test_the_reference_has_every_field_of_a_device(record: type[DeviceInfo | Usage]) -> None:
    names = [field.name for field in dataclasses.fields(record)]
    assert [name for name in names if f"\n| `{name}` | " not in REFERENCE] == []


@pytest.mark.parametrize("kind", [optical_dfa.Feedback, ProjectionDevice], ids=lambda kind: kind.__name__)
def test_the_reference_has_every_member(kind: type) -> None:
    assert [name for name in vars(kind) if not name.startswith("_") and f"`{name}" not in REFERENCE] == []


@pytest.mark.parametrize("module", [device_errors, errors, run_errors], ids=lambda module: module.__name__)
def test_the_reference_draws_the_trees_of_errors(module: ModuleType) -> None:
    assert module.__doc__
    tree = re.split(r"\n\n(?=\S)", module.__doc__.split("::\n\n")[1])[0]
    assert f"```text\n{textwrap.dedent(tree)}\n```" in REFERENCE


def test_the_reference_has_every_option() -> None:
    command = typer.main.get_command(app)
    options = {option for sub in command.commands.values() for p in sub.params for option in p.opts if "-" in option}  # type: ignore[attr-defined]
    options |= {option for entry in available_devices() for option in entry.options}
    assert {option for option in options if f"`{option}" not in REFERENCE} == set()
    assert all(f"### `optical-dfa {name}" in REFERENCE for name in command.commands)  # type: ignore[attr-defined]
