"""Studies as files: what is read, which runs it comes to, and what is said about faults."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from studies import SMALL, study_of

from optical_dfa.run_errors import ConfigError
from optical_dfa.study import code_version as version
from optical_dfa.study.design import key_of, with_seed
from optical_dfa.study.file import load_study

EXAMPLES = sorted((Path(__file__).parents[3] / "examples" / "studies").glob("*.yaml"))


def faults(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        study_of(folder, text)
    return [line.strip().replace(f"{folder}/", "") for line in str(caught.value).splitlines()]


def test_cells_of_a_grid(tmp_path: Path) -> None:
    """Runs that nothing distinguishes are one: a factor of the camera does nothing where there is none."""
    study = study_of(tmp_path)
    found = [(cell.method, dict(cell.levels), cell.seed) for cell in study.cells]
    optical = [
        ("optical DFA", {"read noise": noise}, seed) for seed, noise in itertools.product((0, 1), (0.0, 100.0, 400.0))
    ]
    plain: list[Any] = [(method, {}, seed) for seed in (0, 1) for method in ("exact DFA", "BP")]
    assert sorted(map(repr, found)) == sorted(map(repr, optical + plain))
    assert len({cell.key for cell in study.cells}) == 10
    for cell in study.cells:
        assert (cell.config.training.seed, cell.config.training.threads) == (cell.seed, 1)
        if cell.method != "BP":
            assert cell.config.device["seed"] == cell.seed
        if cell.method == "optical DFA":
            assert cell.config.device["camera"] == {"read_noise_e": cell.levels["read noise"]}


def test_one_at_a_time(tmp_path: Path) -> None:
    text = """\
title: one at a time
methods: {DFA: {}, BP: {training.method: bp, model.width: 9}}
base: {model: {depth: 1}}
design: one-at-a-time
factors:
  model.width: [4, 8, 16]
  training.batch_size: {path: training.batch_size, values: [32, 64], base: 64}
  noise:
    levels:
      - {value: low, set: {device.camera.read_noise_e: 1.0, device.camera.prnu: 0.0}}
      - {value: high, set: {device.camera.read_noise_e: 99.0, device.camera.prnu: 0.1}}
seeds: [3]
"""
    study = study_of(tmp_path, text)
    of_dfa = [tuple(cell.levels.values()) for cell in study.cells if cell.method == "DFA"]
    assert of_dfa == [(4, 64, "low"), (8, 64, "low"), (16, 64, "low"), (4, 32, "low"), (4, 64, "high")]
    # BP sets its own width and has no camera: one factor is left
    of_bp = [(dict(cell.levels), cell.config.model.hidden) for cell in study.cells if cell.method == "BP"]
    assert of_bp == [({"training.batch_size": 64}, (9,)), ({"training.batch_size": 32}, (9,))]
    assert study.cells[4].config.device["camera"] == {"read_noise_e": 99.0, "prnu": 0.1}


def test_the_key_is_of_all_that_decides_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_of(tmp_path)
    config = study.cells[0].config
    assert key_of(with_seed(config, 0)) == key_of(config) != key_of(with_seed(config, 1))
    bp = config.model_copy(update={"training": config.training.model_copy(update={"method": "bp"})})
    other = bp.model_copy(update={"device": {"name": "digital"}})
    assert key_of(bp) == key_of(other) != key_of(config)
    again = study_of(tmp_path, SMALL.replace("title: A small", "title: Another"))
    assert [cell.key for cell in again.cells] == [cell.key for cell in study.cells]
    monkeypatch.setattr("optical_dfa.study.design.code_version", lambda: "0.0.0+other")
    assert key_of(config) != study.cells[0].key


def test_the_code_version_follows_what_decides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deciding = {path.relative_to(version.__file__.rpartition("/study/")[0]).as_posix() for path in version._sources(
        Path(version.__file__).parents[1]
    )}  # fmt: skip
    assert {"encode.py", "training/run.py", "devices/emulated.py", "emulator/camera.py", "study/cell.py"} <= deciding
    assert {"devices/presets/ideal.yaml", "devices/readouts/noise.py", "config/models.py"} <= deciding
    assert not {"study/queue.py", "cli/main.py", "bench/run.py"} & deciding


def test_every_fault_with_its_line(tmp_path: Path) -> None:
    text = """\
title: faulty
base:
  training: {epochs: 3}
methods:
  good: {}
  bad: {training.methd: bp}
factors:
  device.camera.read_noise_e: [1.0, -2.0, loud]
  model.hidden.0: [3, 4]
  two:
    levels:
      - {value: 1, set: {training.batch_size: 8}}
      - {value: 2, set: {training.batch_size: 0}}
tune: {space: {training.learning_rate: {low: 0.001, high: 1}, training.optimizer: [adam, adm]}}
"""
    assert faults(tmp_path, text) == [
        "7 faults in the configuration:",
        "small.yaml:6: methods.bad: training.methd: unknown key. Did you mean 'method'? Known here: method, epochs, "
        "batch_size, optimizer, learning_rate, seed, threads, checkpoint_every_steps, monitor_every_steps",
        "small.yaml:8: factors.device.camera.read_noise_e.values.1: device.camera: read_noise_e must "
        "be a finite number "
        "≥ 0, electrons; got -2.0",
        "small.yaml:8: factors.device.camera.read_noise_e.values.2: device.camera.read_noise_e: "
        "input should be a valid "
        "number; got 'loud'",
        "small.yaml:9: factors.model.hidden.0.values.0: model.hidden: must be a list, [{'0': 3}] for "
        "one value; got {'0': 3}",
        "small.yaml:9: factors.model.hidden.0.values.1: model.hidden: must be a list, [{'0': 4}] for "
        "one value; got {'0': 4}",
        "small.yaml:13: factors.two.levels.1.set: training.batch_size: input should be greater than 0; got 0",
        "small.yaml:14: tune.space.training.optimizer.1: training.optimizer: must be one of adam, sgd; got 'adm'. Did "
        "you mean 'adam'?",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "small.yaml:1: title: missing; it must be given"),
        ("{title: x, sedes: [1]}", "small.yaml:1: sedes: unknown key. Did you mean 'seeds'? Known here: title, question,"),  # noqa: E501
        ("{title: x, seeds: [1, 1]}", "small.yaml:1: the same seed twice in [1, 1]"),
        ("{title: x, design: gird}", "small.yaml:1: design: must be one of grid, one-at-a-time; got 'gird'. Did you mean"),  # noqa: E501
        ("{title: x, factors: {a: {path: b}}}", "small.yaml:1: factors.a: give either path and values, or levels"),
        ("{title: x, factors: {training.epochs: [1, 1]}}", "small.yaml:1: factors.training.epochs: the same value twice"),  # noqa: E501
        (
            "{title: x, factors: {a: {path: training.epochs, values: [1, 2], base: 3}}}",
            "small.yaml:1: factors.a: base 3 is none of the values [1, 2]",
        ),
        ("{title: x, factors: {seed: {path: training.epochs, values: [1]}}}", "small.yaml:1: seed: columns of the table"),  # noqa: E501
        ("{title: x, tune: {space: {}}}", "small.yaml:1: tune.space: dictionary should have at least 1 item"),
        ("{title: x, tune: {methods: [y], space: {a: [1, 2]}}}", "small.yaml:1: tune.methods: no method y; known: DFA"),
        ("{title: x, tuned: absent.yaml}", "absent.yaml: cannot be read: No such file or directory"),
        (
            "{title: x, base: {device: digital}, methods: {a: {feedback.ternarize: null}}, "
            "factors: {device: [digital, emulator]}}",
            "small.yaml:1: methods: a, device emulator: feedback.ternarize: device 'emulator' takes "
            "ternary vectors only",
        ),
    ],
)  # fmt: skip
def test_single_faults(tmp_path: Path, text: str, message: str) -> None:
    assert faults(tmp_path, text)[0].startswith(message)


def test_what_a_search_found_is_applied_to_its_method(tmp_path: Path) -> None:
    (tmp_path / "found.yaml").write_text("# comment\nBP: {training.learning_rate: 0.25}\ngone: {training.epochs: 1}\n")
    study = study_of(tmp_path, SMALL + "tuned: found.yaml\n")
    rates = {cell.method: cell.config.training.learning_rate for cell in study.cells}
    assert rates == {"optical DFA": 0.01, "exact DFA": 0.01, "BP": 0.25}
    plain = load_study(study.path, with_tuned=False)
    assert {cell.config.training.learning_rate for cell in plain.cells} == {0.01}
    (tmp_path / "found.yaml").write_text("BP: {training.learning_rat: 0.25}\n")
    assert faults(tmp_path, SMALL + "tuned: found.yaml\n")[0].startswith(
        "small.yaml:14: tuned: training.learning_rat: unk"
    )


RUNS = {
    "bits-photons": 5 * (3 * 6 + 4),
    "cifar10": 5 * (6 + 4),
    "cora": 10 * (6 + 4),
    "depth-width": 3 * 4 * (4 + 4),
    "digits-200": 5 * (6 * 6 + 4),
    "drift": 5 * (9 + 1),
    "learning-rates": 3 * 4,
    "readouts": 5 * (8 + 1),
    "saturation": 5 * (5 + 2),
    "threshold": 5 * (8 + 2),
}
"""Seeds times conditions: those of the optics, and the methods that no factor touches."""


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_studies(path: Path) -> None:
    study = load_study(path)
    assert study.config.question
    assert len(study.cells) == len({cell.key for cell in study.cells}) == RUNS[path.stem]
