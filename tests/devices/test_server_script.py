"""The server as one file on another host: what it is written in, what it needs, and what it serves there."""

import ast
import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import vendor
from device_kinds import ternary
from typer.testing import CliRunner

from optical_dfa import devices
from optical_dfa.cli import app
from optical_dfa.devices import Anchored, Endpoint, RemoteBench, RemoteDevice, anchor_patterns
from optical_dfa.devices.server import opu_server
from optical_dfa.emulator import FrameStamp

NEEDED = {"numpy", "msgpack", "zmq"}

# A DMD of eight elements and a camera of 4 x 5 pixels; the light is that of a formula, so that the test knows it too.
BENCH = """
from types import SimpleNamespace
import numpy as np

class Bench:
    frame_time_us = 500.0
    info = SimpleNamespace(n_frame_inputs=8, image_shape=(4, 5), adc_bits=None, saturation_dn=float("inf"),
                           gain_dn_per_e=1.0, has_reference=False, has_phase_modulator=False,
                           exposure_limits_us=(10.0, 1e4))

    def configure(self, *, exposure_us, reference_e):
        if not 10 <= exposure_us <= 1e4:
            raise ValueError("exposure_us must be 10 ... 10000")
        self.exposure_us = exposure_us

    def expose(self, frames, *, phases=None, reference=True, at=None):
        weights = np.random.RandomState(0).randn(2, 8, 20)
        field = frames @ weights[0] + 1j * (frames @ weights[1])
        return (np.abs(field) ** 2 * self.exposure_us / 400).reshape(-1, 4, 5)
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `optical-dfa server-script` writes."""
    written = CliRunner().invoke(app, ["server-script"])
    assert written.exit_code == 0
    assert written.output == Path(opu_server.__file__).read_text("utf-8")
    path = tmp_path_factory.mktemp("host") / "opu_server.py"
    path.write_text(written.output, "utf-8")
    return path


def test_it_is_python_3_8(script: Path) -> None:
    """The whole truth, a run on 3.8, is in tests/soak."""
    tree = ast.parse(script.read_text("utf-8"), feature_version=(3, 8))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in imports if isinstance(node, ast.ImportFrom)}
    foreign = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert foreign == NEEDED | {"lightonml"}
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    called = {func.id if isinstance(func, ast.Name) else getattr(func, "attr", "") for func in calls}
    assert not called & {"eval", "exec", "loads", "load", "compile", "__import__"}  # nothing in a message is ever run


def test_no_device_unpickles_anything() -> None:
    """In recordings, calibrations, messages or states: no module of the folder imports what could."""
    names = set()
    for path in Path(devices.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names |= {alias.name.split(".")[0] for alias in node.names}
                names.add((getattr(node, "module", None) or "").split(".")[0])
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant)
                assert node.value.value is False
    assert "safetensors" in names
    assert not names & {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "torch"}


def test_it_runs_alone(script: Path) -> None:
    program = "import runpy, sys; runpy.run_path(sys.argv[1]); print('optical_dfa' in sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", program, script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@contextlib.contextmanager
def started(script: Path, *arguments: str, environment: dict[str, str] | None = None) -> Iterator[str]:
    """The address of the script's server; it must end with status 0 when it is told to."""
    command = [sys.executable, "-W", "ignore", str(script), "serve", *arguments, "--listen", "tcp://127.0.0.1:*"]
    with subprocess.Popen(
        command, cwd=script.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("listening on "):
            raise AssertionError(process.communicate()[1])
        try:
            yield line.split()[-1]
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
    assert process.returncode == 0


def test_it_serves_the_vendor_s_simulator(script: Path) -> None:
    vectors = ternary(40)
    options = ("--lightonml", "--simulated", "--inputs=30", "--outputs=2000")
    with (
        started(script, *options, environment=vendor.environment()) as address,
        RemoteDevice(n_inputs=30, n_outputs=2000, address=address, timeout_s=30.0) as device,
    ):
        fields = device.project(vectors)
        assert device.info.backend == "lightonml 1.4.3, simulator"
        assert device.state_dict()["device"] == "lighton"
        patterns = (vectors > 0).any(axis=1).sum() + (vectors < 0).any(axis=1).sum()
        assert (device.usage.frames, device.usage.frames_skipped) == (patterns, 80 - patterns)
    drawn = np.random.RandomState(0).normal(0, 1, (30, 2000))
    expected = vectors @ drawn
    slope = np.sum(fields * expected) / np.sum(expected**2)
    assert slope == pytest.approx(1, abs=0.02)  # 60,000 entries: 0.3 %, and that of the probes
    np.testing.assert_allclose(fields, slope * expected, atol=1e-4)


def test_it_serves_a_bench_of_one_s_own(script: Path) -> None:
    """The anchored readout, here, of the bench there: a linear map of the patterns."""
    (script.parent / "my_lab.py").write_text(BENCH)
    mean_of_one = float(np.mean(np.square(np.random.RandomState(0).randn(2, 8, 20)).sum(axis=0)))
    with (
        started(script, "--bench", "my_lab:Bench") as address,
        RemoteBench(Endpoint(address, timeout_s=30.0), exposure_us=400.0, reference_e=0.0) as bench,
    ):
        assert bench.info.image_shape == (4, 5)
        readout = Anchored(bench, 6, anchor_patterns(8, 6, 1, 2).astype(np.uint8), 10, anchor_frames=1)
        readout.calibrate(FrameStamp(0, 0))
        columns = readout.read(np.eye(6, dtype=np.uint8), FrameStamp(0, 0)).amplitude
        whole = readout.read(np.ones((1, 6), np.uint8), FrameStamp(0, 0)).amplitude
        np.testing.assert_allclose(whole[0], columns.sum(axis=0), rtol=1e-9, atol=1e-9)
        bench.configure(exposure_us=800.0, reference_e=0.0)
        np.testing.assert_allclose(bench.expose(np.eye(8, dtype=np.uint8)).mean(), 2 * mean_of_one, rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["serve", "--bench", "x:y", "--listen", "tcp://0.0.0.0:5557"], 2, "give --key and --clients"),
        (["serve", "--lightonml"], 2, "needs --inputs and --outputs"),
        (["serve"], 2, "one of the arguments"),
        (["keys", "here/there"], 2, "cannot be written"),
    ],
)
def test_what_it_refuses(script: Path, arguments: list[str], status: int, message: str) -> None:
    done = subprocess.run(
        [sys.executable, str(script), *arguments], cwd=script.parent, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "Traceback" in done.stderr) == (status, False)
    assert message in done.stderr
