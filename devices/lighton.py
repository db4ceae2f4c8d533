"""The vendor's OPU on this machine, or the vendor's simulator, through `lightonml`."""

import weakref
from typing import TYPE_CHECKING, Any

from optical_dfa.devices.base import DeviceInfo, Fields, ProjectionDevice, Usage, Vectors
from optical_dfa.devices.errors import DeviceClosed, DeviceTimeout, FingerprintMismatch
from optical_dfa.devices.own_thread import OwnThread
from optical_dfa.emulator.checks import require

if TYPE_CHECKING:
    from optical_dfa.devices.server.opu_server import LightonOpu, Projection

MAX_INPUTS = 912 * 1140
MAX_OUTPUTS = 2040 * 1088
"""The vendor's DMD and its largest usual camera (FACTS §3)."""


class LightonDevice(ProjectionDevice):
    """The vendor's OPU, in its linear mode, on this machine; or the vendor's simulator.

    `device.info.backend` says which. A ternary vector is shown as two binary patterns, + and -, and subtracted; each
    takes five frames on the hardware. Region, exposure and timing are fixed when it is opened; that they still are is
    checked after every call. Its gain is measured with known vectors at each opening. The hardware lives on a thread of
    its own.

    `open` raises `DeviceUnavailable` if the software or the hardware is missing, or another process uses it.

    Args:
        n_inputs: length of the vectors, at most 1,039,680.
        n_outputs: outputs, at most 2,219,520.
        simulated: the vendor's simulator: exact to rounding, without noise.
        exposure_us: exposure time, microseconds; None: that of the OPU's configuration.
        config_file: the OPU's configuration, an absolute path; None: where the vendor's software looks for it.
        timeout_s: one call of `project` may take so long, seconds; then it raises `DeviceTimeout`.

    Raises:
        ValueError: sizes that the DMD or the camera cannot hold, or an impossible value.
    """

    def __init__(
        self,
        *,
        n_inputs: int,
        n_outputs: int,
        simulated: bool = False,
        exposure_us: int | None = None,
        config_file: str | None = None,
        timeout_s: float = 600.0,
    ) -> None:
        super().__init__()
        for name, given, most in (("n_inputs", n_inputs, MAX_INPUTS), ("n_outputs", n_outputs, MAX_OUTPUTS)):
            whole = isinstance(given, int) and not isinstance(given, bool) and 1 <= given <= most
            require(whole, name, given, f"a whole number, 1 … {most:,}")
        require(isinstance(simulated, bool), "simulated", simulated, "true or false")
        exposed = exposure_us is None or (type(exposure_us) is int and exposure_us > 0)
        require(exposed, "exposure_us", exposure_us, "a whole number > 0, microseconds, or null")
        located = config_file is None or (isinstance(config_file, str) and config_file.startswith("/"))
        require(located, "config_file", config_file, "an absolute path, or null")
        require(isinstance(timeout_s, int | float) and timeout_s > 0, "timeout_s", timeout_s, "a number > 0, seconds")
        self.settings = {
            "simulated": simulated,
            "exposure_us": exposure_us,
            "config_file": config_file,
            "timeout_s": timeout_s,
        }
        self._timeout_s = timeout_s
        self._opu: LightonOpu | None = None
        self._thread: OwnThread | None = None
        self.matrix_identity = {}  # the OPU's name and region are read when it is opened
        self.info = DeviceInfo(
            name="lighton",
            n_inputs=n_inputs,
            n_outputs=n_outputs,
            linear=True,
            exact=False,
            accepts_real=False,
            backend="lightonml, simulated" if simulated else "lightonml",
            frames_per_vector=2 if simulated else 10,
            n_pixels=n_outputs,
            outputs_per_mode=1,
            output_map="rows",
            matrix=None,
        )

    @property
    def gain(self) -> float:
        """Measured gain of the raw fields, which `project` divides by."""
        return self._opened.gain

    @property
    def snr_db(self) -> float:
        """Measured signal-to-noise ratio of random ternary vectors, dB; inf without noise."""
        return self._opened.snr_db

    def effective_matrix(self, rows: slice = slice(None)) -> Fields | None:
        """Rows of the simulator's matrix, unit gain, float32 (rows, n_inputs); None for the hardware."""
        return self._opened.matrix()[rows] if self.settings["simulated"] else None

    @property
    def _opened(self) -> "LightonOpu":
        if self._opu is None:
            raise DeviceClosed("device 'lighton' is closed: call its open() or use it in a with block")
        return self._opu

    def _open(self) -> None:
        from optical_dfa.devices.server.opu_server import POWER_W, LightonOpu

        settings: dict[str, Any] = {name: self.settings[name] for name in ("simulated", "exposure_us")}
        settings["config_file"] = self.settings["config_file"] or ""
        opu = LightonOpu(self.info.n_inputs, self.info.n_outputs, **settings)
        thread = OwnThread("optical-dfa-lighton")
        try:
            self._call(thread, opu.open)
            if self.matrix_identity and opu.identity != self.matrix_identity:
                raise FingerprintMismatch(
                    f"the OPU is not as it was when it was opened first: {opu.identity}, before {self.matrix_identity}"
                )
        except BaseException:
            thread.submit(opu.close)  # behind an `open` that goes on, if this was an interrupt
            thread.stop(0)
            raise
        self.matrix_identity = opu.identity
        self._opu, self._thread = opu, thread
        self._at_exit = weakref.finalize(self, _let_go, opu, thread)
        seconds = opu.frames_to_open * opu.frame_time_us * 1e-6
        self.usage.add(Usage(frames=opu.frames_to_open, device_seconds=seconds, device_joules=seconds * POWER_W))

    def _close(self) -> None:
        opu, thread = self._opu, self._thread
        self._opu = self._thread = None
        if opu is not None and thread is not None:
            self._at_exit.detach()
            thread.submit(opu.close)  # where a call hangs, as soon as that ends
            thread.stop(self._timeout_s)

    def _project(self, vectors: Vectors) -> tuple[Fields, Usage]:
        from optical_dfa.devices.server.opu_server import POWER_W

        opu, thread = self._opened, self._thread
        assert thread is not None
        shown: Projection = self._call(thread, lambda: opu.project(vectors))
        seconds = shown.frames * opu.frame_time_us * 1e-6
        usage = Usage(
            frames=shown.frames,
            frames_skipped=shown.frames_skipped,
            device_seconds=seconds,
            device_joules=seconds * POWER_W,
        )
        return shown.fields, usage

    def _call(self, thread: OwnThread, function: Any) -> Any:
        """What the OPU's thread returns, the errors of the vendor's software as ours."""
        from optical_dfa.devices.served_errors import from_served
        from optical_dfa.devices.server.opu_server import ServedError

        try:
            return thread.call(function, self._timeout_s)
        except TimeoutError:
            raise DeviceTimeout(
                f"the OPU has not answered in {self._timeout_s:g} s (timeout_s): it may hang; end this process, which "
                "lets go of it, or raise timeout_s for large batches"
            ) from None
        except ServedError as error:
            raise from_served(error.kind, str(error)) from error.__cause__


def _let_go(opu: "LightonOpu", thread: OwnThread) -> None:
    """Close an OPU whose device was forgotten, or at the end of the interpreter."""
    thread.submit(opu.close)
    thread.stop(10)
