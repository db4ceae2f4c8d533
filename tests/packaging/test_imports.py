"""What an import brings along, seen by a fresh interpreter."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("optical_dfa", {"torch", "numpy", "pydantic", "yaml", "rich", "typer", "matplotlib"}),
        (
            "optical_dfa.devices",
            {"torch", "rich", "typer", "matplotlib", "sklearn", "scipy", "numba", "llvmlite", "cupy", "safetensors"}
            | {"zmq", "msgpack", "lightonml"},
        ),
        (
            "optical_dfa.emulator",
            {"torch", "pydantic", "yaml", "scipy", "numba", "llvmlite", "cupy", "optical_dfa.devices"},
        ),
    ],
)
def test_import_leaves_out(module: str, absent: set[str]) -> None:
    program = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert module in loaded
    assert sorted(loaded & absent) == []
