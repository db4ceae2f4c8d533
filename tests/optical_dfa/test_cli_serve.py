"""`optical-dfa serve` and `keys`: what they write and refuse. That served devices work: tests/devices."""

import stat
from pathlib import Path

import pytest
from served import Keys
from typer.testing import CliRunner

from optical_dfa.cli import app
from optical_dfa.devices.server.opu_server import read_key


def test_keys(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["keys", "laptop", "--folder", str(tmp_path)])
    assert done.exit_code == 0
    secret, public = tmp_path / "laptop.secret", tmp_path / "laptop.public"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    keys = [read_key(str(secret), secret=True), read_key(str(public))]
    assert not any(key.decode() in done.output for key in keys)
    again = CliRunner().invoke(app, ["keys", "laptop", "--folder", str(tmp_path)])
    assert again.exit_code == 2
    assert "not overwritten" in again.output


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["emulater"], 2, "Did you mean 'emulator'?"),
        (["emulator", "--preset", "best"], 2, "preset"),
        (["emulator", "--set", "n_inputs=3"], 2, "--inputs and --outputs"),
        (["digital", "--listen", "tcp://0.0.0.0:5557"], 2, "give --key and --clients"),
        (["digital", "--listen", "tcp://256.1.1.1:5557"], 2, "give --key and --clients"),
        (["digital", "--listen", "tcp://127.0.0.1:99999"], 2, "PORT 1 ... 65535"),
        (["digital", "--listen", "ipc:///no/such/folder/socket"], 1, "cannot listen on"),
        (["digital", "--faults", "1.5"], 2, "--faults"),
        (["lighton"], 1, "lightonml"),
    ],
)
def test_what_serve_refuses(arguments: list[str], status: int, message: str) -> None:
    done = CliRunner().invoke(app, ["serve", *arguments, "--inputs", "3", "--outputs", "5"])
    assert done.exit_code == status, done.output
    assert message in done.output


def test_a_key_that_others_may_read(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    Path(keys.server).chmod(0o644)
    command = ["serve", "digital", "--inputs=3", "--outputs=5", "--key", keys.server, "--clients", str(keys.folder)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2
    assert "chmod 600" in done.output
