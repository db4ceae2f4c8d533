"""What can project: the device contract and its implementations. No torch.

`open_device` opens a device by name; `ProjectionDevice` is the contract; `optical_dfa.devices.errors` draws the tree of
errors.
"""

from optical_dfa.devices.base import DeviceInfo, ProjectionDevice, Usage
from optical_dfa.devices.bench import BenchDevice
from optical_dfa.devices.bench_checks import CheckedBench, CountedBench
from optical_dfa.devices.bench_wrapper import BenchWrapper
from optical_dfa.devices.digital import DigitalDevice
from optical_dfa.devices.emulated import EmulatedDevice
from optical_dfa.devices.errors import (
    DeviceClosed,
    DeviceError,
    DeviceFault,
    DeviceTimeout,
    DeviceUnavailable,
    FingerprintMismatch,
    InvalidConfig,
    InvalidVectors,
    ReplayMismatch,
    SaturationWarning,
    UnknownDevice,
)
from optical_dfa.devices.injection import DroppingBench, FailingBench, FaultyDevice, OverexposedBench, StuckBench
from optical_dfa.devices.lighton import LightonDevice
from optical_dfa.devices.matrix import MatrixDevice
from optical_dfa.devices.measured import MeasuredDevice
from optical_dfa.devices.presets import Preset, load_preset, preset_names
from optical_dfa.devices.readouts.anchored import Anchored, anchor_patterns
from optical_dfa.devices.readouts.base import Bench, Reading, Readout
from optical_dfa.devices.readouts.exposure import Exposure, Light, auto_exposure
from optical_dfa.devices.readouts.intensity import IntensityFeatures
from optical_dfa.devices.readouts.maps import Calibration
from optical_dfa.devices.readouts.off_axis import OffAxis, carrier_on_bin
from optical_dfa.devices.readouts.phase_stepping import PhaseStepping
from optical_dfa.devices.readouts.tracking import PhaseTracker, Track
from optical_dfa.devices.record import RecordDevice, RecordingBench
from optical_dfa.devices.recording import Recording, RecordingError, RecordingWriter
from optical_dfa.devices.registry import (
    DeviceEntry,
    available_devices,
    check_device_config,
    make_device,
    open_device,
)
from optical_dfa.devices.remote import RemoteDevice
from optical_dfa.devices.remote_bench import RemoteBench
from optical_dfa.devices.remote_client import Endpoint
from optical_dfa.devices.replay import ReplayDevice
from optical_dfa.devices.resilient import FaultEvent, OnFault, ResilientDevice
from optical_dfa.devices.snr import measured_snr_db
from optical_dfa.devices.sync import SyncedBench
from optical_dfa.devices.tap import FrameTap
from optical_dfa.devices.twin_bench import twin_bench
from optical_dfa.devices.wrapped import WrappedDevice

__all__ = [
    "Anchored",
    "Bench",
    "BenchDevice",
    "BenchWrapper",
    "Calibration",
    "CheckedBench",
    "CountedBench",
    "DeviceClosed",
    "DeviceEntry",
    "DeviceError",
    "DeviceFault",
    "DeviceInfo",
    "DeviceTimeout",
    "DeviceUnavailable",
    "DigitalDevice",
    "DroppingBench",
    "EmulatedDevice",
    "Endpoint",
    "Exposure",
    "FailingBench",
    "FaultEvent",
    "FaultyDevice",
    "FingerprintMismatch",
    "FrameTap",
    "IntensityFeatures",
    "InvalidConfig",
    "InvalidVectors",
    "Light",
    "LightonDevice",
    "MatrixDevice",
    "MeasuredDevice",
    "OffAxis",
    "OnFault",
    "OverexposedBench",
    "PhaseStepping",
    "PhaseTracker",
    "Preset",
    "ProjectionDevice",
    "Reading",
    "Readout",
    "RecordDevice",
    "Recording",
    "RecordingBench",
    "RecordingError",
    "RecordingWriter",
    "RemoteBench",
    "RemoteDevice",
    "ReplayDevice",
    "ReplayMismatch",
    "ResilientDevice",
    "SaturationWarning",
    "StuckBench",
    "SyncedBench",
    "Track",
    "UnknownDevice",
    "Usage",
    "WrappedDevice",
    "anchor_patterns",
    "auto_exposure",
    "available_devices",
    "carrier_on_bin",
    "check_device_config",
    "load_preset",
    "make_device",
    "measured_snr_db",
    "open_device",
    "preset_names",
    "twin_bench",
]
