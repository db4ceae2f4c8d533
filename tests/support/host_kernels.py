"""The CUDA kernels as a C library for the host: a launch is a loop over its blocks.

Arguments are checked against the C signatures, which CuPy does not do: it hands over bytes.
"""

import ctypes
import functools
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from optical_dfa.emulator.cupy_kernels import SOURCE

# -ffp-contract=off: no multiplication and addition in one rounding unless the source says so, as for the GPU
FLAGS = ["-x", "c", "-std=c11", "-O2", "-fPIC", "-shared", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
SCALARS: dict[str, Any] = {"unsigned long long": np.uint64, "unsigned": np.uint32, "float": np.float32}
TARGETS: dict[str, Any] = {
    "signed char": np.int8, "unsigned char": np.uint8, "unsigned short": np.uint16, "unsigned": np.uint32,
    "unsigned long long": np.uint64, "int": np.int32, "float": np.float32,
}  # fmt: skip
_folder = tempfile.TemporaryDirectory(prefix="optical-dfa-kernels-")


def compiler() -> str:
    found = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if found is None:
        raise RuntimeError(
            "these tests compile the CUDA kernels for the host and found no C compiler: install gcc or clang, or name "
            "one in the environment variable CC"
        )
    return found


@functools.cache
def library(source: Path = SOURCE) -> ctypes.CDLL:
    built = Path(_folder.name) / f"{abs(hash(source))}.so"
    done = subprocess.run([compiler(), *FLAGS, source, "-o", built, "-lm"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(built))


@functools.cache
def signatures(source: Path = SOURCE) -> dict[str, tuple[str, ...]]:
    """Types of the parameters of each kernel, as written."""
    done = subprocess.run([compiler(), "-E", "-x", "c", source], capture_output=True, text=True, check=True)
    parts = re.split(r'^# \d+ "([^"]*)".*\n', done.stdout, flags=re.MULTILINE)  # before which: line numbers and files
    own = "".join(text for file, text in zip(parts[1::2], parts[2::2], strict=True) if file == str(source))
    return {
        name: tuple(re.sub(r"\s*\w+$", "", " ".join(parameter.split())) for parameter in parameters.split(","))
        for name, parameters in re.findall(r"\bvoid (\w+)\(([^)]*)\)", own)
        if name != "set_block"
    }


def checked(kernel: str, arguments: tuple[Any, ...]) -> list[Any]:
    """The arguments as C values; arrays are what has `data.ptr`."""
    parameters = signatures()[kernel]
    assert len(arguments) == len(parameters), kernel
    values: list[Any] = []
    for argument, parameter in zip(arguments, parameters, strict=True):
        if parameter.endswith("*"):
            target = TARGETS[parameter.removeprefix("const ").removesuffix("*").strip()]
            assert argument.dtype == target, f"{kernel}: {argument.dtype} for {parameter}"
            values.append(ctypes.c_void_p(argument.data.ptr))
        else:
            assert type(argument) is SCALARS[parameter], f"{kernel}: {type(argument)} for {parameter}"
            values.append(np.ctypeslib.as_ctypes_type(argument.dtype)(argument.item()))
    return values


def launch(kernel: str, grid: tuple[int, ...], threads: int, values: list[Any]) -> None:
    blocks_x, blocks_y = grid[0], grid[1] if len(grid) > 1 else 1
    assert 0 < blocks_x < 1 << 31, grid
    assert 0 < blocks_y < 1 << 16, grid
    assert 0 < threads <= 1024, threads
    assert threads % 32 == 0, threads
    function, set_block = getattr(library(), kernel), library().set_block
    for y in range(blocks_y):
        for x in range(blocks_x):
            set_block(x, y, blocks_x, blocks_y, threads)
            function(*values)
