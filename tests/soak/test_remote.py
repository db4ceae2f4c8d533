"""Long: a device server under load, under fire, killed, and on the Python of an old host."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import zmq
from device_kinds import closed, opened, ternary
from load import put_load, resident_bytes
from raw_client import Raw, malformed
from served import Keys, Process, free_port, remote, serving

from optical_dfa.devices import RemoteDevice
from optical_dfa.devices.server import opu_server

LOAD_S = float(os.environ.get("OPTICAL_DFA_LOAD_S", "600"))


@pytest.mark.soak
def test_load(tmp_path: Path) -> None:
    """Eight clients; the same numbers as from devices of their own, and memory that does not grow."""
    keys = Keys(tmp_path)
    options = ["--inputs=30", "--outputs=21", "--set=photometry.signal_e_per_feature=25.0", "--set=backend=numpy"]
    server = Process("emulator", *options, "--key", keys.server, "--clients", str(keys.folder), port=free_port())
    server.start()
    assert server.process is not None
    memory: list[int] = []
    done = threading.Event()

    def watch() -> None:
        assert server.process is not None
        while not done.wait(LOAD_S / 60):
            memory.append(resident_bytes(server.process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    load = put_load(server.address, 8, LOAD_S, **keys.of_client())
    done.set()
    watcher.join()
    assert server.end(signal.SIGTERM) == 0
    early, late = np.median(memory[5:15]), np.median(memory[-10:])
    print(f"\n8 clients, {LOAD_S:.0f} s, {len(load.seconds):,} requests checked, {len(load.wrong)} wrong answers")
    tail = ", ".join(f"{percent:g} %: {load.percentile(percent):.1f} ms" for percent in (50, 99, 99.9, 100))
    print(f"latency {tail}")
    print(f"memory of the server {early / 2**20:.1f} MB early, {late / 2**20:.1f} MB late")
    assert load.wrong == []
    assert late < 1.05 * early


@pytest.mark.soak
def test_fuzz(tmp_path: Path) -> None:
    """10^5 malformed messages with a good key, and as many with an unknown one."""
    keys = Keys(tmp_path)
    generator, vectors = np.random.default_rng(0), ternary(3)
    with serving(closed("noisy"), **keys.of_server) as address, opened("noisy") as local:
        client, stranger = Raw(address, **keys.of_client()), Raw(address, **keys.of_client("stranger"))
        client.socket.sndtimeo, stranger.socket.sndtimeo = 60_000, 0
        heard = 0
        with remote(address, **keys.of_client()) as device:
            for number in range(100_000):
                message = malformed(generator)
                client.socket.send_multipart(message)
                with contextlib.suppress(zmq.Again):  # nobody takes them: they wait here
                    stranger.socket.send_multipart(message)
                while client.socket.poll(0):
                    client.socket.recv_multipart()
                heard += stranger.socket.poll(0)
                if number % 1000 == 0:
                    np.testing.assert_array_equal(device.project(vectors), local.project(vectors))
        counted = client.info()["counts"]
        client.close()
        stranger.close()
    print(f"\n100,000 malformed messages, {counted['malformed']:,} of them answered as such; to the stranger: {heard}")
    assert heard == 0
    assert counted["denied"] > 0


CONFIG = """
training: {{epochs: 6, batch_size: 16, threads: 1, checkpoint_every_steps: 7, seed: 5}}
device: {device}
"""


@pytest.mark.soak
def test_a_run_that_everything_happens_to(tmp_path: Path) -> None:
    """5 % of the requests fail, the server is killed twice, the client once: the weights of the undisturbed run."""
    keys = Keys(tmp_path / "keys")
    sizes = ["--inputs=10", "--outputs=256", "--preset=phase-stepping"]
    secured = ["--key", keys.server, "--clients", str(keys.folder)]
    plain = Process("emulator", *sizes, *secured, port=free_port())
    log = tmp_path / "server.log"
    server = Process("emulator", *sizes, *secured, "--faults=0.05", port=free_port(), log=log)

    def start(name: str, address: str, *options: str) -> subprocess.Popen[bytes]:
        config = tmp_path / f"{name}.yaml"
        client = "".join(f", {key}: {value}" for key, value in keys.of_client().items())
        config.write_text(CONFIG.format(device=f"{{name: remote, address: '{address}', patience_s: 1.0{client}}}"))
        script = "from optical_dfa.cli import app; app()"
        return subprocess.Popen([sys.executable, "-c", script, "train", config, "-o", tmp_path / name, "-q", *options])

    def ended(epochs: int) -> None:
        """The disturbed run, still under way, has ended so many epochs."""
        path = tmp_path / "disturbed" / "metrics.csv"
        while not path.exists() or path.read_text().count("\n") <= epochs:
            assert run.poll() is None
            time.sleep(0.02)

    plain.start()
    assert start("undisturbed", plain.address).wait() == 0
    assert plain.end(signal.SIGTERM) == 0

    server.start()
    run = start("disturbed", server.address)
    ended(1)
    server.end()
    server.start()
    ended(3)
    run.kill()
    run.wait()
    run = start("disturbed", server.address, "--resume")
    ended(4)
    server.end()
    time.sleep(3)
    server.start()
    assert run.wait() == 0
    server.end()
    weights = [
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["net"] for name in ("undisturbed", "disturbed")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    injected = Counter(re.findall(r"fault: (\w+)", log.read_text()))
    assert injected.total() >= 10  # 5 % of 540 requests or more: fewer once in 20,000
    faults = ", ".join(f"{times} {kind}" for kind, times in sorted(injected.items()))
    print(f"\nserver killed in epochs 2 and 5 of 6, client in epoch 4; faults: {faults}: weights identical to the bit")


OLD = ["numpy", "pyzmq", "msgpack", "numexpr", "requests", "attrs", "setuptools<81", "certifi", "idna", "urllib3",
       "charset-normalizer"]  # fmt: skip


@pytest.mark.soak
@pytest.mark.parametrize("version", ["3.8", "3.9"])
def test_on_an_old_host(version: str, tmp_path: Path) -> None:
    """The script under an old Python and NumPy, serving the vendor's simulator to this Python."""
    found = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    python = str(found[-1]) if found else shutil.which(f"python{version}")
    if python is None:
        pytest.skip(f"there is no Python {version} here: put python{version} on the path, or install it with pyenv")
    subprocess.run([python, "-m", "venv", tmp_path / "env"], check=True)
    old = str(tmp_path / "env" / "bin" / "python")
    install = [old, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
    for packages in (OLD, ["--no-deps", "lightonml==1.4.3"]):
        subprocess.run([*install, *packages], check=True, capture_output=True)
    script = str(tmp_path / "opu_server.py")
    shutil.copy(opu_server.__file__, script)
    for name in ("host", "laptop"):
        subprocess.run([old, script, "keys", name], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    (tmp_path / "clients").mkdir()
    (tmp_path / "laptop.public").rename(tmp_path / "clients" / "laptop.public")
    command = [old, "-W", "ignore", script, "serve", "--lightonml", "--simulated", "--inputs=30", "--outputs=2000"]
    command += ["--listen", "tcp://127.0.0.1:*", "--key", "host.secret", "--clients", "clients"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        keys = {"server_key": str(tmp_path / "host.public"), "key": str(tmp_path / "laptop.secret")}
        vectors = ternary(500)
        with RemoteDevice(n_inputs=30, n_outputs=2000, address=address, **keys) as device:  # type: ignore[arg-type]
            fields = device.project(vectors)
            backend = device.info.backend
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
    expected = vectors @ np.random.RandomState(0).normal(0, 1, (30, 2000))
    slope = np.sum(fields * expected) / np.sum(expected**2)
    residue = float(np.abs(fields - slope * expected).max())
    listed = (
        "import sys, numpy, zmq, msgpack as m; "
        "print(sys.version.split()[0], numpy.__version__, zmq.__version__, '.'.join(map(str, m.version)), sep=', ')"
    )
    versions = subprocess.run([old, "-c", listed], capture_output=True, text=True, check=True).stdout.strip()
    print(f"\nPython, NumPy, pyzmq, msgpack {versions}: {backend}, slope {slope:.4f}, residue {residue:.1e}")
    assert slope == pytest.approx(1, abs=0.02)
    assert residue < 1e-4
