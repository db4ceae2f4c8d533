"""The device of a matrix file: exact products, sizes that fit, and files that are not what they should be."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from optical_dfa.devices import DeviceUnavailable, InvalidConfig, check_device_config, make_device, open_device
from optical_dfa.devices.matrix_file import MatrixFile
from optical_dfa.measure import save_matrix

N_OUTPUTS, N_INPUTS = 21, 30
MATRIX = np.random.default_rng(0).standard_normal((N_OUTPUTS, N_INPUTS), np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "matrix.safetensors"
    save_matrix(path, MATRIX, outputs_per_mode=2, noise=np.full(N_OUTPUTS, 0.01), measured_on="a slab of paint")
    return path


def ternary(batch: int) -> Any:
    return np.random.default_rng(batch).integers(-1, 2, (batch, N_INPUTS), np.int8)


def test_info(path: Path) -> None:
    info = make_device("measured", path=str(path)).info
    assert (info.name, info.n_inputs, info.n_outputs, info.backend) == ("measured", N_INPUTS, N_OUTPUTS, "numpy")
    assert info.linear
    assert info.exact
    assert info.accepts_real
    assert (info.frames_per_vector, info.n_pixels, info.outputs_per_mode, info.output_map) == (0, 0, 2, "rows")
    assert info.matrix is not None
    assert info.matrix.stored_bytes == 4 * N_OUTPUTS * N_INPUTS


def test_fields_are_the_exact_product_rounded_once(path: Path) -> None:
    """Entries of 30 random inputs are far above the grid of 2^-47 of a row's range: the matrix is that of the file."""
    vectors = ternary(40)
    with open_device("measured", path=path) as device:
        fields = device.project(vectors)
        np.testing.assert_array_equal(device.effective_matrix(), MATRIX)
        np.testing.assert_array_equal(device.project(vectors.astype(np.float32)), fields)
    exact = np.array([[sum_exactly(row, vector) for row in MATRIX] for vector in vectors])
    assert fields.dtype == np.float32
    np.testing.assert_array_equal(fields, exact.astype(np.float32))


def sum_exactly(row: Any, vector: Any) -> float:
    return math.fsum((row.astype(np.float64) * vector).tolist())


def test_entries_far_below_the_largest_are_rounded_to_the_grid(tmp_path: Path) -> None:
    """Largest entry 1 < 2, four inputs: multiples of 2^(1 + 2 - 52)."""
    matrix = np.array([[1, 2**-49, 1.25 * 2**-49, 2**-51], [0, 0, 0, 0]], np.float32)
    save_matrix(tmp_path / "wide.safetensors", matrix, outputs_per_mode=1)
    expected = np.array([[1, 2**-49, 2**-49, 0], [0, 0, 0, 0]], np.float32)
    with open_device("measured", path=tmp_path / "wide.safetensors") as device:
        np.testing.assert_array_equal(device.effective_matrix(), expected)
        assert device.project(np.array([[1, 0, -1, 0]], np.int8)).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(
    "rows", [slice(None), slice(3, 9, 2), slice(5, 5), slice(-4, None), slice(None, None, -3)], ids=str
)
def test_rows_of_the_effective_matrix_open_and_closed(path: Path, rows: slice) -> None:
    device = make_device("measured", path=path)
    np.testing.assert_array_equal(device.effective_matrix(rows), MATRIX[rows])
    with device:
        np.testing.assert_array_equal(device.effective_matrix(rows), MATRIX[rows])


def test_fewer_outputs_are_the_first_rows(path: Path) -> None:
    with open_device("measured", path=path, n_inputs=N_INPUTS, n_outputs=7) as device:
        assert device.project(ternary(3)).shape == (3, 7)
        np.testing.assert_array_equal(device.effective_matrix(), MATRIX[:7])


def test_sizes_that_do_not_fit_are_all_reported(path: Path) -> None:
    with pytest.raises(InvalidConfig) as error:
        make_device("measured", path=path, n_inputs=29, n_outputs=22)
    assert str(error.value).splitlines() == [
        "device 'measured' cannot be made:",
        f"  n_inputs: must be 30, the inputs of {path}; got 29",
        f"  n_outputs: must be 1 … 21, the outputs of {path}; got 22",
    ]
    assert [fault.path for fault in error.value.faults] == [("n_inputs",), ("n_outputs",)]


@pytest.mark.parametrize(("option", "value"), [("n_inputs", "30"), ("n_outputs", True), ("n_outputs", 0), ("path", 3)])
def test_impossible_options_are_refused(path: Path, option: str, value: Any) -> None:
    with pytest.raises(InvalidConfig, match=f"device 'measured' cannot be made: {option}: must be .*got {value!r}"):
        make_device("measured", **{"path": path, option: value})


def test_a_configuration_is_checked_with_the_sizes_of_the_file(path: Path) -> None:
    info = check_device_config("measured", path=str(path))
    assert (info.n_inputs, info.n_outputs) == (N_INPUTS, N_OUTPUTS)
    with pytest.raises(InvalidConfig, match=r"^device 'measured' cannot be made: path: missing; it must be given$"):
        check_device_config("measured")


def test_fingerprint_is_that_of_the_content(path: Path, tmp_path: Path) -> None:
    device = make_device("measured", path=path)
    copy, other = tmp_path / "copy.safetensors", tmp_path / "other.safetensors"
    save_matrix(copy, MATRIX, outputs_per_mode=2)  # recorded otherwise, at another time: the same matrix
    save_matrix(other, -MATRIX, outputs_per_mode=2)
    assert make_device("measured", path=copy).fingerprint == device.fingerprint
    assert make_device("measured", path=other).fingerprint != device.fingerprint
    assert make_device("measured", path=path, n_outputs=20).fingerprint != device.fingerprint


def test_the_file_is_plain_safetensors(path: Path) -> None:
    tensors = load_file(path)
    np.testing.assert_array_equal(tensors["matrix"], MATRIX)
    np.testing.assert_array_equal(tensors["noise"], np.full(N_OUTPUTS, 0.01, np.float32))
    record = MatrixFile(path).record
    assert (record.device, record.outputs_per_mode, record.probes) == ("a slab of paint", 2, 0)


def refused(path: Path) -> str:
    with pytest.raises(InvalidConfig) as error:
        make_device("measured", path=path)
    (fault,) = error.value.faults
    assert fault.path == ("path",)
    assert str(path) in fault.message
    return fault.message


def test_files_that_hold_no_matrix_are_refused(path: Path, tmp_path: Path) -> None:
    assert "no such file: measure a matrix with optical-dfa measure-matrix" in refused(tmp_path / "absent")
    assert "no such file" in refused(tmp_path)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("n_inputs: 10\n" * 20)
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-8])
    for name in ("empty", "text", "cut"):
        assert "not a safetensors file, or damaged" in refused(tmp_path / name)
    save_file({"weight": MATRIX}, tmp_path / "net")
    assert "not of a measured matrix (format None, not 'optical_dfa.matrix')" in refused(tmp_path / "net")


def test_matrix_files_of_another_form_are_refused(path: Path, tmp_path: Path) -> None:
    record = json.dumps({"device": "x", "outputs_per_mode": 1})
    metadata = {"format": "optical_dfa.matrix", "version": "1", "sha256": "0" * 64, "record": record}
    noise = np.zeros(N_OUTPUTS, np.float32)
    good: dict[str, Any] = {"matrix": MATRIX, "noise": noise}
    cases: list[tuple[str, dict[str, Any], dict[str, str], str]] = [
        ("new", good, {"version": "2"}, "version '2' of the format, this program reads '1'"),
        ("record", good, {"record": '{"device": "x", "outputs_per_mode": 3}'}, "outputs_per_mode"),
        ("json", good, {"record": "{"}, "record of the measurement is damaged"),
        ("lone", {"matrix": MATRIX}, {}, "must hold float32 matrix (outputs, inputs) and noise (outputs,)"),
        ("flat", {"matrix": noise, "noise": noise}, {}, "must hold float32 matrix"),
        ("short", {"matrix": MATRIX, "noise": noise[1:]}, {}, "must hold float32 matrix"),
        ("double", {"matrix": MATRIX.astype(np.float64), "noise": noise}, {}, "must hold float32 matrix"),
    ]
    for name, tensors, changed, reason in cases:
        save_file(tensors, tmp_path / name, metadata={**metadata, **changed})
        assert reason in refused(tmp_path / name)
    save_file(good, tmp_path / "hash", metadata=metadata)
    with pytest.raises(DeviceUnavailable, match="damaged, its matrix is not the one that was written"):
        open_device("measured", path=tmp_path / "hash")


def test_a_flipped_bit_is_found_at_open(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-4 * N_OUTPUTS - 100] ^= 1
    path.write_bytes(bytes(data))
    device = make_device("measured", path=path)
    with pytest.raises(DeviceUnavailable, match="damaged, its matrix is not the one that was written: copy it anew"):
        device.open()
