"""The backend of a device changes its speed, never its fields or its identity."""

from typing import Any

import numpy as np
import pytest
from device_kinds import every_kind, exact_kinds, opened, ternary

from optical_dfa.devices import InvalidConfig, make_device
from optical_dfa.emulator.numba_support import why_no_product, why_unavailable


@exact_kinds
def test_fields_and_fingerprint_do_not_depend_on_the_backend(kind: str) -> None:
    sizes: dict[str, Any] = {"n_inputs": 30, "n_outputs": 601}  # too large to stay with NumPy
    vectors = ternary(9)
    with opened(kind, **sizes, backend="numpy") as numpy, opened(kind, **sizes) as automatic:
        assert numpy.info.backend == "numpy"
        assert automatic.info.matrix is not None
        assert automatic.info.backend == automatic.info.matrix.backend
        assert automatic.info.backend == ("numba" if why_no_product() is None else "numpy")
        assert automatic.fingerprint == numpy.fingerprint
        np.testing.assert_array_equal(automatic.project(vectors), numpy.project(vectors))
        np.testing.assert_array_equal(automatic.effective_matrix(), numpy.effective_matrix())
        numpy.load_state_dict(automatic.state_dict())


def test_noise_hardly_depends_on_the_backend() -> None:
    """One digital number, 1/(4·R·K) root electrons of the field, in fewer than 1 of 10^4 readings of four a pixel."""
    sizes: dict[str, Any] = {"n_inputs": 30, "n_outputs": 20_000}
    vectors = ternary(40)
    with opened("noisy", **sizes, backend="numpy") as numpy, opened("noisy", **sizes) as automatic:
        assert numpy.info.camera_backend == "numpy"
        assert automatic.info.camera_backend == ("numba" if why_unavailable(("fma",)) is None else "numpy")
        assert automatic.fingerprint == numpy.fingerprint
        one_dn = 1 / (4 * 1500**0.5 * 0.0255) / (25.0 / 2) ** 0.5
        difference = np.abs(automatic.project(vectors) - numpy.project(vectors))
        assert difference.max() < 1.001 * one_dn
        assert np.mean(difference > 0) < 4e-4  # an output is made of four readings
        numpy.load_state_dict(automatic.state_dict())


@every_kind
def test_numba_is_used_or_refused(kind: str) -> None:
    name = "digital" if kind == "digital" else "emulator"
    if (reason := why_no_product()) is None:
        assert make_device(name, n_inputs=30, n_outputs=20, backend="numba").info.backend == "numba"
        return
    with pytest.raises(InvalidConfig) as refusal:
        make_device(name, n_inputs=30, n_outputs=20, backend="numba")
    assert f"backend 'numba' cannot be used: {reason}" in str(refusal.value)
