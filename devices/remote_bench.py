"""The bench of a server: a DMD and a camera on another machine, read here."""

from typing import Any, Self

import numpy as np
import numpy.typing as npt

from optical_dfa.devices.errors import DeviceClosed, DeviceFault, DeviceTimeout, DeviceUnavailable
from optical_dfa.devices.remote_client import Endpoint, RemoteClient
from optical_dfa.emulator import BenchInfo, FrameStamp


class RemoteBench:
    """A `Bench` behind a device server: readouts run here, frames and images travel.

    Exposure and reference level are this client's own: they come with every request, whatever others have set.

    Args:
        endpoint: where the server is.
        exposure_us, reference_e: what `configure` sets, to begin with.

    Raises:
        DeviceUnavailable: from `open`: no server there, or it serves something else.
        DeviceTimeout, DeviceError: from `expose` and `configure`.
    """

    info: BenchInfo

    def __init__(self, endpoint: Endpoint, *, exposure_us: float, reference_e: float) -> None:
        self.frame_time_us = 0.0
        self._endpoint = endpoint
        self._setting = {"exposure_us": float(exposure_us), "reference_e": float(reference_e)}
        self._client: RemoteClient | None = None
        self._device = ""
        self._next_frame = 0

    def open(self) -> Self:
        """Connect to the server. Harmless if it is connected."""
        if self._client is not None:
            return self
        client = RemoteClient(self._endpoint)
        try:
            served = client.request("info", {})[0]["info"]
            if served.get("serves") != "bench":
                raise DeviceUnavailable(
                    f"{self._endpoint.address} serves a {served.get('serves')}, not a bench: open it as the device "
                    "'remote'"
                )
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in served["bench"].items()}
            self.info, self._device, self._client = BenchInfo(**values), served["device"], client
            self.configure(**self._setting)
        except BaseException as error:
            self._client = None
            client.close()
            if isinstance(error, DeviceTimeout):
                raise DeviceUnavailable(str(error)) from None
            raise
        return self

    def close(self) -> None:
        """Leave the server. Harmless if it was left."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def configure(self, *, exposure_us: float, reference_e: float) -> None:
        """See `Bench`."""
        setting = {"exposure_us": float(exposure_us), "reference_e": float(reference_e)}
        header, _ = self._request("configure", setting)
        self._setting, self.frame_time_us = setting, header["frame_time_us"]

    def expose(
        self,
        frames: npt.NDArray[np.uint8],
        *,
        phases: npt.NDArray[np.floating] | None = None,
        reference: bool = True,
        at: FrameStamp | None = None,
    ) -> npt.NDArray[Any]:
        """See `Bench`. Without a stamp, frames follow those of the last such call of this client, in stream 0."""
        if at is None:
            at = FrameStamp(0, self._next_frame)
            self._next_frame += len(frames)
        turned = np.zeros(len(frames)) if phases is None else np.asarray(phases, np.float64)
        stamp = [at.stream, at.first_frame, at.time_s]
        request = {**self._setting, "stamp": stamp, "reference": bool(reference)}
        _, arrays = self._request("expose", request, [frames, turned])
        if len(arrays) != 1 or arrays[0].shape != (len(frames), *self.info.image_shape):
            raise DeviceFault(f"the server answered {len(frames)} frames, but not with an image of each")
        return arrays[0].copy()

    def _request(
        self,
        op: str,
        fields: dict[str, Any],
        arrays: list[npt.NDArray[Any]] = [],  # noqa: B006  # not changed
    ) -> tuple[dict[str, Any], list[npt.NDArray[Any]]]:
        if self._client is None:
            raise DeviceClosed("the remote bench is closed: call its open() or use it in a with block")
        return self._client.request(op, {**fields, "device": self._device}, arrays)
