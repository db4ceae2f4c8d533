"""NVRTC by ctypes: compiles CUDA source to PTX without a GPU and without a driver."""

import ctypes
import functools
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

PACKAGES = ("nvidia-cuda-nvrtc-cu12", "nvidia-cuda-nvrtc")


@functools.cache
def library() -> ctypes.CDLL:
    for package in PACKAGES:
        try:
            found = [file for file in files(package) or [] if file.name.startswith("libnvrtc.so")]
        except PackageNotFoundError:
            continue
        if found:
            return ctypes.CDLL(str(Path(str(found[0].locate()))))
    raise RuntimeError(f"these tests compile the CUDA kernels and found no NVRTC: pip install {PACKAGES[0]}")


def compile_to_ptx(source: str, options: tuple[str, ...]) -> tuple[str, str]:
    """PTX and what the compiler said. Fails with the latter."""
    nvrtc, program = library(), ctypes.c_void_p()
    text = source.encode()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, b"kernels.cu", 0, None, None) == 0
    arguments = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    with ThreadPoolExecutor(1) as pool:  # NVRTC 12.4 leaves its thread in the locale "C", where text is ASCII
        status = pool.submit(nvrtc.nvrtcCompileProgram, program, len(options), arguments).result()
    log = _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
    assert status == 0, log
    ptx = _text(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return ptx, log


def _text(get_size: Any, get: Any, program: ctypes.c_void_p) -> str:
    size = ctypes.c_size_t()
    assert get_size(program, ctypes.byref(size)) == 0
    buffer = ctypes.create_string_buffer(size.value)
    assert get(program, buffer) == 0
    return buffer.value.decode()
