"""The command line: what it prints, its exit status, and that it starts fast."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import optical_dfa
import optical_dfa.training
from optical_dfa.cli import app
from optical_dfa.devices import DeviceFault, available_devices
from optical_dfa.run_errors import TrainingInterrupted

CONFIG = """\
model: {hidden: [8]}
training: {method: bp, epochs: 1}
"""


@pytest.fixture(autouse=True)
def in_folder_with_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    Path("small.yaml").write_text(CONFIG)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_version() -> None:
    assert run("--version").output == f"optical-dfa {optical_dfa.__version__}\n"


def test_help_names_every_command() -> None:
    output = run("--help").output
    commands = ("train", "demo", "devices", "bench", "measure-matrix", "estimate", "study", "tune", "bench-view")
    assert all(f" {command} " in output for command in commands)
    assert run().exit_code == 2  # nothing asked, help shown


def test_train_resume_and_refuse() -> None:
    first = run("train", "small.yaml")
    assert (first.exit_code, first.stderr) == (0, "")
    lines = first.stdout.splitlines()
    assert lines[0] == "bp, digits, 64-8-10 tanh, seed 0"
    assert lines[-2].startswith("test accuracy ")
    assert lines[-1] == "run folder runs/small"
    assert sorted(path.name for path in Path("runs/small").iterdir()) == [
        "checkpoint.previous.pt", "checkpoint.pt", "config.yaml", "metrics.csv", "provenance.json", "result.json",
    ]  # fmt: skip
    refused = run("train", "small.yaml")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr == (
        "error: runs/small: holds a finished run: --resume to show its result, or -o another folder for a new one\n"
    )
    resumed = run("train", "small.yaml", "--resume")
    assert (resumed.exit_code, resumed.stdout.splitlines()) == (0, lines[-2:])


def test_quiet_set_and_out() -> None:
    result = run(
        "train", "small.yaml", "--quiet", "-o", "other", "--set", "training.seed=4", "--set", "model.hidden=[4]"
    )
    assert (result.exit_code, result.output) == (0, "")
    saved = Path("other/config.yaml").read_text()
    assert "seed: 4" in saved
    assert "hidden:\n  - 4\n" in saved
    assert run("train", "other/config.yaml", "-o", "other", "--resume").exit_code == 0  # a saved configuration is one


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent.yaml",), "error: absent.yaml: cannot be read: No such file or directory\n"),
        (
            ("small.yaml", "--set", "training.epocs=3"),
            "error: --set training.epocs=3: training.epocs: unknown key. Did you mean 'epochs'? Known here: method, "
            "epochs, batch_size, optimizer, learning_rate, seed, threads, checkpoint_every_steps, "
            "monitor_every_steps\n",
        ),
        (
            ("small.yaml", "--set", "training.epochs=x", "--set", "device=digitl"),
            "error: 2 faults in the configuration:\n"
            "  --set training.epochs=x: training.epochs: input should be a valid integer; got 'x'\n"
            "  --set device=digitl: device.name: unknown device 'digitl'. Did you mean 'digital'? "
            f"Known: {', '.join(entry.name for entry in available_devices())}\n",
        ),
        (("small.yaml", "--resume"), "error: runs/small: holds no run to resume: leave out --resume"),
        (("small.yaml", "-o", "."), "error: .: holds other files and no run: give the run its own folder with -o\n"),
        (("small.yaml", "--set", "task={name: mnist, folder: no}"), "error: no: no such folder (current directory: "),
    ],
)
def test_bad_input_is_one_message_and_status_2(arguments: tuple[str, ...], message: str) -> None:
    result = run("train", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(message)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (DeviceFault("the camera is silent"), 1, "error: the camera is silent\nin epoch 1\n"),
        (TrainingInterrupted("stopped on request"), 130, "stopped on request\nin epoch 1\n"),
        (KeyboardInterrupt(), 130, "interrupted\nin epoch 1\n"),
        (OSError(28, "No space left on device"), 1, "error: [Errno 28] No space left on device\nin epoch 1\n"),
    ],
)
def test_faults(error: BaseException, status: int, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    error.add_note("in epoch 1")
    monkeypatch.setattr(optical_dfa.training, "train", fail)
    result = run("train", "small.yaml")
    assert (result.exit_code, result.stderr) == (status, message)


def test_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optical_dfa.training, "train", lambda *_, **__: dict[str, Any]()["missing"])
    assert isinstance(run("train", "small.yaml").exception, KeyError)


def test_warnings_are_one_line() -> None:
    program = (
        "import warnings; from optical_dfa.cli.errors import clean_errors\nwith clean_errors(): warnings.warn('dim')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "warning: dim\n"


def test_devices_fit_a_terminal_of_80_columns() -> None:
    result = run("devices")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    first_words = {line.split()[0] for line in lines if line.strip()}
    assert {"digital", "emulator", "measured", "ideal", "phase-stepping", "camera"} <= first_words
    assert "memory_budget_bytes" in result.stdout
    assert "read_noise_e" in result.stdout


@pytest.mark.parametrize(
    "arguments", ["--help", "devices", "train absent.yaml", "bench --jobs absent", "estimate absent.yaml"]
)
def test_torch_is_imported_only_to_train(arguments: str) -> None:
    program = (
        f"import sys; sys.argv[1:] = {arguments.split()!r}\n"
        "from optical_dfa.cli import app\n"
        "try: app()\n"
        "finally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "False"
