"""A twin in files: a preset, the measured matrix, maps of the pixels, and a report of every value."""

import datetime
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from optical_dfa.devices import load_preset
from optical_dfa.devices.calibration import CalibrationRecord, calibration_bytes
from optical_dfa.devices.matrix_file import MatrixRecord, write_matrix
from optical_dfa.emulator import BenchInfo
from optical_dfa.files import write_text_whole, write_whole
from optical_dfa.run_errors import InputError
from optical_dfa.twin.estimate import Estimate
from optical_dfa.twin.fit import Twin
from optical_dfa.twin.values import gain_of

PRESET, MATRIX, MAPS, REPORT = "preset.yaml", "matrix.safetensors", "maps.safetensors", "twin.json"


@dataclass(frozen=True)
class TwinFiles:
    """Where a twin was written."""

    preset: Path
    """What `open_device("emulator", preset=…)` takes, as text."""
    matrix: Path
    maps: Path
    report: Path


def save(twin: Twin, folder: str | Path) -> TwinFiles:
    """Write a twin to a folder.

    Raises:
        InputError: there is a twin already.
    """
    folder = Path(folder)
    files = TwinFiles(*(folder / name for name in (PRESET, MATRIX, MAPS, REPORT)))
    for path in vars(files).values():
        if path.exists():
            raise InputError(f"{path}: exists already: remove it, or give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    light, source, info = twin.light, twin.seen.source, twin.seen.info
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    unit = math.sqrt(float(np.mean(np.abs(light.columns) ** 2)) / 2)
    settings = json.loads(json.dumps(dict(source.settings), default=str))

    rows = (_rows(light.columns) / unit).astype(np.float32)
    noise = (np.repeat(light.field_error(twin.variance), 2) / unit).astype(np.float32)
    patterns = np.unique(twin.seen.patterns[twin.seen.reference], axis=0)
    record = MatrixRecord(
        device=source.device, outputs_per_mode=2, date=now, fingerprint=source.fingerprint, settings=settings,
        probes=len(patterns), lit=int(patterns.sum(axis=1).max()), frames=len(twin.seen),
        repeats=max(1, int(twin.seen.reference.sum()) // (4 * len(patterns))),
        device_seconds=len(twin.seen) * source.frame_time_us * 1e-6,
        saturated_fraction=float(np.mean(twin.seen.images >= info.saturation_dn)),
    )  # fmt: skip
    write_whole(files.matrix, lambda file: write_matrix(file, (len(rows), rows.shape[1]), [(rows, noise)], record))

    mean_level = float(light.reference.mean())
    maps = {
        "background": (_rows(light.background[None])[:, 0] / unit).astype(np.float32),
        "reference": np.sqrt(light.reference / mean_level).astype(np.float32),
        "dark_dn": (light.dark - light.dark.mean()).astype(np.float32),
        "image_shape": np.array(info.image_shape, np.int64),
    }
    content = calibration_bytes(maps, CalibrationRecord(source.device, source.fingerprint, now, settings))
    write_whole(files.maps, lambda file: file.write(content))
    write_text_whole(files.report, json.dumps(_report(twin), indent=2, ensure_ascii=False) + "\n")
    write_text_whole(files.preset, _preset(twin, unit, mean_level, now))
    return files


def _rows(columns: Any) -> Any:
    """(2 P, inputs) quadratures of complex columns (inputs, P)."""
    return np.stack([columns.real, columns.imag], axis=-1).reshape(len(columns), -1).T


def _preset(twin: Twin, unit: float, mean_level: float, now: str) -> str:
    """The preset, each value with where it comes from."""
    values = {estimate.name: estimate for estimate in twin.estimates}
    source, info = twin.seen.source, twin.seen.info
    gain, _ = gain_of(twin.seen, twin.transfer)
    dark = max(float(twin.light.dark.mean()), 0.0)
    apparatus = load_preset("phase-stepping").bench.apparatus
    readout = dict(source.settings.get("readout") or {})
    well = values["camera.full_well_e"]
    lines: dict[str, dict[str, tuple[Any, str]]] = {
        "photometry": {
            "signal_e_per_feature": (2 * unit**2 / gain, _words(values["photometry.signal_e_per_feature"])),
            "reference_e": (mean_level / gain, _words(values["photometry.reference_e"])),
            "exposure_us": (source.exposure_us, "as it was set"),
        },
        "camera": {
            "shot_noise": (values["camera.gain_dn_per_e"].kind == "measured", "the slope of the photon transfer curve"),
            "read_noise_e": (_or_off(values["camera.read_noise_e"]), _words(values["camera.read_noise_e"])),
            "full_well_e": _full_well(well, info, gain, dark),
            "gain_dn_per_e": (gain, _words(values["camera.gain_dn_per_e"])),
            "adc_bits": (info.adc_bits, "stated by the bench"),
            "black_level_dn": (dark, _words(values["camera.black_level_dn"])),
        },
        "apparatus": {
            "dmd_mirrors": (max(apparatus.dmd_mirrors, info.n_frame_inputs), "not told; as in phase-stepping"),
            "camera_pixels": (max(apparatus.camera_pixels, math.prod(info.image_shape)), "not told; likewise"),
            "min_frame_time_us": (source.frame_time_us, "of the bench"),
            "power_w": (apparatus.power_w, "not told; as in phase-stepping"),
        },
        "medium": {
            name: (_or_off(values[f"medium.{name}"], off), _words(values[f"medium.{name}"]))
            for name, off in (("decorrelation_tau_s", math.inf), ("piston_walk_rad", 0.0), ("vibration_rad", 0.0))
        },
        "laser": {
            "intensity_noise": (
                min(_or_off(values["laser.intensity_noise"]), 0.17),
                _words(values["laser.intensity_noise"]),
            ),
            "phase_step_error": (
                twin.drift.step.value if twin.drift.step.seen else 0.0,
                _words(values["laser.phase_step_error"]),
            ),
        },
    }
    text = [
        f"description: {json.dumps(f'digital twin of device {source.device} ({source.fingerprint}), {now}')}",
        f"measured: {{matrix: {MATRIX}, maps: {MAPS}}}",
    ]
    for section, entries in lines.items():
        text.append(f"{section}:")
        text += [f"  {name}: {_yaml(value):<24} # {why}" for name, (value, why) in entries.items()]
    text += yaml.safe_dump({"readout": readout}, sort_keys=False).splitlines() if readout else []
    return "\n".join(text) + "\n"


def _full_well(well: Estimate, info: BenchInfo, gain: float, dark: float) -> tuple[float, str]:
    """As it was seen, else as the bench states where it saturates, if that is before its converter ends."""
    if well.kind == "measured":
        return well.value, _words(well)
    top = math.inf if info.adc_bits is None else 2.0**info.adc_bits - 1
    if info.saturation_dn < top:
        return (info.saturation_dn - dark) / gain, f"stated by the bench, {info.saturation_dn:g} DN; {well.why}"
    return math.inf, _words(well)


def _yaml(value: Any) -> str:
    if isinstance(value, float):
        return ".inf" if math.isinf(value) else repr(float(f"{value:.9g}"))
    return json.dumps(value)


def _or_off(estimate: Estimate, off: float = 0.0) -> float:
    """The value of what was measured; otherwise what switches it off."""
    return estimate.value if estimate.kind == "measured" else off


def _words(estimate: Estimate) -> str:
    if estimate.kind == "measured":
        return f"{estimate.low:.5g} … {estimate.high:.5g}; {estimate.why}"
    if estimate.kind == "limit":
        return f"{estimate.low:.5g} … {estimate.high:.5g}: {estimate.why}"
    return f"not told: {estimate.why}"


def _report(twin: Twin) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    transfer = twin.transfer
    return {
        "device": twin.seen.source.device,
        "fingerprint": twin.seen.source.fingerprint,
        "frames": len(twin.seen),
        "estimates": [{key: plain(value) for key, value in asdict(e).items()} for e in twin.estimates],
        "photon_transfer": {
            name: [plain(float(v)) for v in getattr(transfer, name)] for name in ("mean", "variance", "error")
        },
    }
