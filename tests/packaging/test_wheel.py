"""The wheel holds the three folders, no more and no less, and works where the checkout is not."""

import importlib.util
import json
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDERS = {"optical_dfa": "optical_dfa", "devices": "optical_dfa/devices", "emulator": "optical_dfa/emulator"}

# Imports the modules named on stdin and prints where each one was found.
IMPORT_ALL = """
import importlib, json, sys
print(json.dumps({name: importlib.import_module(name).__file__ for name in json.load(sys.stdin)}))
"""


def run(*command: str | Path, stdin: str = "", cwd: Path | None = None) -> str:
    """Run a command, show all it said if it fails, and return its output."""
    done = subprocess.run(command, input=stdin, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the tree: setuptools would add what an earlier build left in build/ of the checkout."""
    work = tmp_path_factory.mktemp("wheel")
    tree = work / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", work, tree)
    (built,) = work.glob("*.whl")
    return built


def test_content_equals_the_tree(wheel: Path) -> None:
    expected = {"optical_dfa/py.typed"}
    for folder, package in FOLDERS.items():
        top = ROOT / folder
        # `**` does not descend into the two links in optical_dfa/, so that every file is met once.
        files = [
            file
            for pattern in ("**/*.py", "**/*.cu", "**/*.css", "**/*.js", "presets/*.yaml")
            for file in top.glob(pattern)
        ]
        expected.update(f"{package}/{file.relative_to(top).as_posix()}" for file in files)
    names = zipfile.ZipFile(wheel).namelist()
    packed = {name for name in names if ".dist-info/" not in name}
    assert sorted(expected - packed) == [], "missing: see `packages` and `package-data` in pyproject.toml"
    assert sorted(packed - expected) == [], "not in the tree"
    assert sum(name.endswith("/licenses/LICENSE") for name in names) == 1


def test_one_version(wheel: Path) -> None:
    """`optical_dfa.__version__` is the source; the wheel and the citation agree with it."""
    version = run(sys.executable, "-c", "import optical_dfa; print(optical_dfa.__version__)").strip()
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        assert HeaderParser().parsestr(archive.read(metadata).decode())["Version"] == version
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == version


def test_every_module_imports_from_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)

    # The dependencies come from the running environment. A folder named in a .pth file is searched last, and the .pth
    # files inside it are not read: neither an installed optical_dfa nor an editable one can stand in for the wheel's.
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    running = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "dependencies.pth").write_text("\n".join(sorted(running)))

    files = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")]
    if importlib.util.find_spec("numba") is None:  # the extra `fast` is not installed
        kernels = ("cache", "camera", "kernels", "readout")
        needing = {"simd.py", "vnni.py", "avx2.py", "llvm_floats.py", *(f"numba_{name}.py" for name in kernels)}
        files = [name for name in files if Path(name).name not in needing]
    modules = [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in files]
    found = json.loads(run(python, "-I", "-c", IMPORT_ALL, stdin=json.dumps(modules), cwd=tmp_path))
    assert {Path(file).relative_to(site).as_posix() for file in found.values()} == set(files)
