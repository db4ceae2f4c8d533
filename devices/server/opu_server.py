"""Serves the vendor's OPU, or a bench of a DMD and a camera, to clients of optical_dfa over the network.

One file, on purpose: the vendor's software needs an old host. Copy it there; it needs Python 3.8 or newer, NumPy, pyzmq
and msgpack, nothing of optical_dfa, and `lightonml` for the vendor's OPU.

    python opu_server.py keys opu-host
    python opu_server.py serve --lightonml --inputs 10 --outputs 10000 \
        --listen tcp://0.0.0.0:5557 --key opu-host.secret --clients clients
    python opu_server.py serve --bench my_lab:make_bench --listen tcp://127.0.0.1:5557

Protocol, version 1: a message is a header, a msgpack map, and one frame for each array, whose dtype and shape the
header names. A client is a session, 16 random bytes, and numbers its requests; an answer is kept until the client says
that it has it, so that a request sent twice is displayed once. Every request brings all that its answer depends on: a
server holds nothing of a client that it may not lose.
"""

import argparse
import contextlib
import errno
import hashlib
import importlib
import json
import logging
import math
import os
import queue
import re
import signal
import stat
import sys
import threading
import time
import traceback
from collections import OrderedDict, deque
from typing import Any, Callable, Deque, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

try:
    import msgpack
    import zmq
    from zmq.utils import z85

    HAS_NETWORK = True
except ImportError:  # the OPU alone, without a network, needs neither
    HAS_NETWORK = False
    msgpack = zmq = z85 = None  # type: ignore[assignment]

Header = Dict[str, Any]
Arrays = List["np.ndarray[Any, Any]"]
Tell = Callable[["np.ndarray[Any, Any]"], None]
Key = Tuple[str, bytes, int]
"""Of a request: name of the client's key, session, number."""

PROTOCOL = 1
DTYPES = ("|i1", "|u1", "<u2", "<f4", "<f8")
MAX_HEADER_BYTES = 1 << 16
PART_BYTES, LAST_PART_BYTES = 1 << 20, 1 << 17
"""Fields that are sent together: most, and so few that they are not parted any further."""

HEARTBEAT_S = 0.5
"""A client with a request here hears so often that it is still here."""

log = logging.getLogger("opu_server")


class ServedError(Exception):
    """What went wrong, in words that travel to the client.

    Kinds: `invalid` request, `unavailable` device, `timeout` and `fault` of the device, another device than the client
    expects: `fingerprint`, `busy`: ask again later, `protocol`: this is not our protocol, or another version.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


# Messages


def pack(header: Header, arrays: Sequence["np.ndarray[Any, Any]"] = ()) -> List[Any]:
    """Frames of a message."""
    solid = [np.ascontiguousarray(array) for array in arrays]
    described = [[array.dtype.str, list(array.shape)] for array in solid]
    text = msgpack.packb(dict(header, v=PROTOCOL, arrays=described))
    return [text] + [array.data.cast("B") if array.size else b"" for array in solid]


def unpack(frames: Sequence[Any]) -> Tuple[Header, Arrays]:
    """Header and arrays of a message, the arrays as views of its frames.

    Raises:
        ServedError: it is not one. Nothing in a message is ever run or unpickled.
    """
    if not frames or len(frames[0]) > MAX_HEADER_BYTES:
        raise ServedError("protocol", f"a message has a header of at most {MAX_HEADER_BYTES:,} bytes")
    try:
        header = msgpack.unpackb(frames[0], raw=False, strict_map_key=True)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise ServedError("protocol", f"the header is not msgpack: {error}") from None
    if not isinstance(header, dict) or header.get("v") != PROTOCOL:
        version = header.get("v") if isinstance(header, dict) else None
        raise ServedError(
            "protocol",
            f"this speaks version {PROTOCOL} of the protocol; got {version!r:.40}: bring both sides to one version of "
            "optical_dfa, `optical-dfa server-script` writes the server's",
        )
    described = header.get("arrays")
    if not isinstance(described, list) or len(described) != len(frames) - 1:
        raise ServedError("protocol", "the header must describe every array of the message")
    return header, [_array(entry, frame) for entry, frame in zip(described, frames[1:])]


def _array(described: Any, frame: Any) -> "np.ndarray[Any, Any]":
    accepted = isinstance(described, list) and len(described) == 2 and described[0] in DTYPES
    shape = described[1] if accepted else None
    if not (isinstance(shape, list) and len(shape) <= 4 and all(type(n) is int and 0 <= n < 1 << 40 for n in shape)):
        raise ServedError("protocol", "an array is described by a dtype of {} and a shape".format(", ".join(DTYPES)))
    dtype = np.dtype(described[0])
    if math.prod(shape) * dtype.itemsize != len(frame):
        raise ServedError("protocol", f"{len(frame)} bytes are not an array {dtype} {shape}")
    return np.frombuffer(frame, dtype).reshape(shape)


# Keys


def write_keys(folder: str, name: str) -> Tuple[str, str]:
    """Write a new pair of CURVE keys: NAME.secret, for its owner's eyes (mode 600), and NAME.public, to give away.

    Raises:
        ServedError: one of the files exists, or cannot be written.
    """
    public, secret = zmq.curve_keypair()
    paths = tuple(os.path.join(folder, f"{name}.{kind}") for kind in ("secret", "public"))
    try:
        for path, key, mode in zip(paths, (secret, public), (0o600, 0o644)):
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(key + b"\n")
    except FileExistsError as error:
        raise ServedError("invalid", f"{error.filename} exists: keys are not overwritten") from None
    except OSError as error:
        raise ServedError("invalid", f"{error.filename}: cannot be written: {error.strerror}") from None
    return paths[0], paths[1]


def read_key(path: str, secret: bool = False) -> bytes:
    """The key in a file of `write_keys`.

    Raises:
        ServedError: no such file, no key in it, or a secret that others may read.
    """
    try:
        if secret and stat.S_IMODE(os.stat(path).st_mode) & 0o077:
            raise ServedError("invalid", f"{path}: others than its owner may read it: chmod 600 {path}")
        with open(path, "rb") as file:
            key = file.read(64).strip()
    except OSError as error:
        raise ServedError("invalid", f"{path}: cannot be read: {error.strerror}") from None
    try:
        if len(key) != 40:
            raise ValueError
        zmq.curve_public(key)  # refuses what is not Z85
    except (ValueError, zmq.ZMQError):
        raise ServedError("invalid", f"{path}: holds no key: `keys NAME` writes a pair") from None
    return key


def allowed_keys(folder: str) -> Dict[bytes, str]:
    """Public keys in a folder, and the names of their files. Read anew for each connection."""
    names = sorted(name for name in os.listdir(folder) if name.endswith(".public"))
    return {read_key(os.path.join(folder, name)): name[: -len(".public")] for name in names}


# The vendor's OPU

PASS_FRAMES = 3000
"""Frames that the vendor's driver reserves buffers for, and takes at once."""

LINEAR_FRAMES = 5
"""Frames of a binary pattern in the vendor's linear mode."""

POWER_W = 30.0
PROBES = 32
"""Known vectors that the gain is measured with, each shown twice."""


class Projection(NamedTuple):
    """Fields of some vectors, and what displaying them took."""

    fields: "np.ndarray[Any, Any]"
    """float32 (vectors, outputs)"""
    frames: int
    frames_skipped: int


class LightonOpu:
    """The vendor's OPU in its linear mode, through `lightonml`, real or simulated.

    A ternary vector is shown as two binary patterns, + and -, and subtracted: the vendor's software knows no -1, and
    its simulator casts it to 255. All that the matrix depends on is fixed at opening and checked after each call.

    Args:
        n_inputs, n_outputs: features and components; fixed, since the simulator draws another matrix for others.
        simulated: the vendor's simulator instead of the hardware.
        exposure_us: exposure time, microseconds; None: that of the OPU's configuration.
        config_file: the OPU's configuration, an absolute path; empty: where the vendor's software looks for it.
    """

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        simulated: bool = False,
        exposure_us: Optional[int] = None,
        config_file: str = "",
    ) -> None:
        self.n_inputs, self.n_outputs, self.simulated = n_inputs, n_outputs, simulated
        self.frames_per_pattern = 1 if simulated else LINEAR_FRAMES
        self.gain = self.snr_db = math.nan
        self.frames_to_open = 0
        self._exposure_us, self._config_file = exposure_us, config_file
        self._opu: Any = None
        self._frozen: Any = None

    def open(self) -> None:
        """Take the OPU, fix its settings, measure its gain.

        Raises:
            ServedError: no software, no OPU, or somebody uses it; the OPU is closed again.
        """
        with _vendor_errors("unavailable", "the OPU cannot be opened"):
            import lightonml
            from lightonml.types import OutputRescaling

            opu = lightonml.OPU(
                n_components=self.n_outputs,
                max_n_features=self.n_inputs,
                config_file=self._config_file,
                open_at_init=False,
                disable_pbar=True,
                simulated=self.simulated,
                rescale=OutputRescaling.none,
            )
            try:
                opu.open()
                exposure = {} if self._exposure_us is None else {"exposure_us": self._exposure_us}
                opu.fit1d(n_features=self.n_inputs, **exposure)
                self._opu, self._frozen = opu, _settings(opu)
                self.name = "simulator" if self.simulated else str(opu.config["name"])
                self.version = str(lightonml.__version__)
                self._measure_gain()
            except BaseException:
                self._opu = None
                if opu.device.active:
                    _close(opu)
                raise

    def close(self) -> None:
        """Let go of the OPU. Harmless on a closed one."""
        opu, self._opu = self._opu, None
        if opu is not None:
            _close(opu)

    @property
    def identity(self) -> Dict[str, Any]:
        """What tells this matrix from any other, as far as the vendor's software says."""
        frozen = self._frozen
        roi = {} if self.simulated else {"output_roi": frozen["output_roi"]}
        return {
            "kind": "lightonml",
            "opu": self.name,
            "features": self.n_inputs,
            "components": self.n_outputs,
            **roi,
        }

    @property
    def frame_time_us(self) -> float:
        """Time from frame to frame, microseconds."""
        return float(self._frozen["frametime_us"])

    def project(self, vectors: "np.ndarray[Any, Any]") -> Projection:
        """Fields of ternary vectors, int8 (vectors, n_inputs), at unit gain: E[field²] = |x|².

        Raises:
            ServedError: the OPU failed, or something changed its settings.
        """
        with _vendor_errors("fault", "the OPU failed"):
            shown = self._show(vectors)
        fields = shown.fields
        fields /= np.float32(self.gain)
        return shown

    def matrix(self) -> "np.ndarray[Any, Any]":
        """The simulator's matrix at unit gain, float32 (n_outputs, n_inputs)."""
        exact: np.ndarray[Any, Any] = self._opu.device.random_matrix.real.T / np.float32(self.gain)
        return exact

    def _show(self, vectors: "np.ndarray[Any, Any]") -> Projection:
        """Raw fields, of unknown gain."""
        if self._opu is None:
            raise ServedError("unavailable", "the OPU is closed")
        signed = np.stack([vectors > 0, vectors < 0], axis=1).reshape(-1, self.n_inputs)
        lit = signed.any(axis=1)
        patterns = signed[lit].view(np.uint8)
        both = np.zeros((len(signed), self.n_outputs), np.float32)
        read = np.empty((len(patterns), self.n_outputs), np.float32)
        at_once = PASS_FRAMES // self.frames_per_pattern
        for first in range(0, len(patterns), at_once):
            part = patterns[first : first + at_once]
            answer = np.asarray(self._opu.linear_transform(part))
            if answer.shape != (len(part), self.n_outputs) or not np.isfinite(answer).all():
                raise ServedError("fault", f"the OPU gave {answer.dtype} {answer.shape}, or not numbers")
            read[first : first + at_once] = answer
        if _settings(self._opu) != self._frozen:
            raise ServedError("fault", "region or timing of the OPU were changed behind our back: open it anew")
        both[lit] = read
        shown = self.frames_per_pattern * len(patterns)
        skipped = self.frames_per_pattern * (len(signed) - len(patterns))
        return Projection(both[0::2] - both[1::2], shown, skipped)

    def _measure_gain(self) -> None:
        """Gain and signal-to-noise ratio, of two readings of each probe: their noises are independent.

        The vendor's own `rescale` is not used: it assumes a gain, and its simulator applies it twice.
        """
        probes = np.random.RandomState(0).randint(-1, 2, (PROBES, self.n_inputs)).astype(np.int8)
        probes[~probes.any(axis=1), 0] = 1
        shown = self._show(np.repeat(probes, 2, axis=0))
        one, two = (shown.fields[start::2].astype(np.float64) for start in (0, 1))
        signal, noise = float(np.mean(one * two)), float(np.mean((one - two) ** 2)) / 2
        if not signal > 5 * noise / math.sqrt(one.size):
            raise ServedError(
                "fault",
                f"two readings of one vector do not agree (signal {signal:.3g}, noise {noise:.3g}): is the laser on, "
                "is the exposure right?",
            )
        self.gain = math.sqrt(signal * one.size / (self.n_outputs * float(np.count_nonzero(probes))))
        self.snr_db = 10 * math.log10(signal / noise) if noise else math.inf
        self.frames_to_open = shown.frames


def _settings(opu: Any) -> Dict[str, Any]:
    device = opu.device
    roi = [[int(number) for number in pair] for pair in device.output_roi]
    return {"output_roi": roi, "exposure_us": float(device.exposure_us), "frametime_us": float(device.frametime_us)}


def _close(opu: Any) -> None:
    try:
        opu.close()
    except Exception:
        log.exception("the OPU did not close properly")


@contextlib.contextmanager
def _vendor_errors(kind: str, what: str) -> Iterator[None]:
    """Errors of the vendor's software as ours; `kind` is what they mean unless they say more."""
    try:
        yield
    except (ServedError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # its ProcessRunningException is not an Exception
        place = traceback.extract_tb(error.__traceback__)[-1]
        said = str(error) or f"{os.path.basename(place.filename)}:{place.lineno}: {place.line}"
        name, message = type(error).__name__, f"{what}: {type(error).__name__}: {said}"
        if isinstance(error, ImportError):
            advice = "; install it: pip install --no-deps lightonml==1.4.3 numexpr requests attrs 'setuptools<81'"
            raise ServedError("unavailable", message + advice) from error
        if name in ("OpuAlreadyUsedException", "ProcessRunningException"):
            raise ServedError("unavailable", message + "; another process uses it: stop that one") from error
        if "Timeout" in name:
            raise ServedError("timeout", message) from error
        too_large = kind == "unavailable" and isinstance(error, (IndexError, ValueError))
        if too_large and not isinstance(error, json.JSONDecodeError):
            kind = "invalid"
        raise ServedError(kind, message) from error


# What can be served


class Served:
    """What a server offers: one operation, all of whose state comes with the request. Used by one thread."""

    def open(self) -> Header:
        """Take hold of it; returns what a client must know, plain values."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of it."""
        raise NotImplementedError

    def perform(self, header: Header, arrays: Arrays, tell: Tell) -> Tuple[Header, Arrays]:
        """Answer a request; returns fields of the header, and arrays.

        Args:
            header: of the request.
            arrays: of the request.
            tell: takes an array that comes before those that are returned, and sends it at once.

        Raises:
            ServedError: nothing was changed.
        """
        raise NotImplementedError


class ServedOpu(Served):
    """Serves `project` of the vendor's OPU."""

    def __init__(self, opu: LightonOpu) -> None:
        self._opu = opu

    def open(self) -> Header:
        """See `Served`."""
        opu = self._opu
        opu.open()
        log.info("OPU %s: gain %.4g, SNR %.1f dB", opu.name, opu.gain, opu.snr_db)
        return {
            "serves": "device",
            "name": "lighton",
            "n_inputs": opu.n_inputs,
            "n_outputs": opu.n_outputs,
            "linear": True,
            "exact": False,
            "accepts_real": False,
            "backend": f"lightonml {opu.version}, {opu.name}",
            "frames_per_vector": 2 * opu.frames_per_pattern,
            "n_pixels": opu.n_outputs,
            "outputs_per_mode": 1,
            "output_map": "rows",
            "camera_backend": "",
            "probe_frames": 0.0,
            "mark_frames": 0.0,
            "identity": opu.identity,
            "position": {},
            "settings": {"simulated": opu.simulated, "frame_time_us": opu.frame_time_us},
        }

    def close(self) -> None:
        """See `Served`."""
        self._opu.close()

    def perform(self, header: Header, arrays: Arrays, tell: Tell) -> Tuple[Header, Arrays]:
        """See `Served`."""
        vectors = checked_vectors(header, arrays, self._opu.n_inputs)
        frames = skipped = 0
        fields = None
        for rows in parts_of(len(vectors), header["outputs"]):
            if fields is not None:
                tell(fields)
            shown = self._opu.project(vectors[rows])
            fields = shown.fields[:, : header["outputs"]]
            frames, skipped = frames + shown.frames, skipped + shown.frames_skipped
        seconds = frames * self._opu.frame_time_us * 1e-6
        usage = {
            "frames": frames,
            "frames_skipped": skipped,
            "device_seconds": seconds,
            "device_joules": seconds * POWER_W,
        }
        return {"usage": usage, "position": {}}, [] if fields is None else [fields]


def parts_of(n_vectors: int, n_outputs: int) -> Iterator[slice]:
    """Vectors whose fields are sent together: while they travel, the hardware shows the next ones.

    The client waits for the last part alone, so the last ones are small, each a quarter of what was left.
    """
    most, least = (max(1, size // (4 * n_outputs)) for size in (PART_BYTES, LAST_PART_BYTES))
    first = 0
    while first < n_vectors:
        left = n_vectors - first
        last = first + (left if left <= least else min(most, left - left // 4))
        yield slice(first, last)
        first = last


def checked_vectors(
    header: Header, arrays: Arrays, n_inputs: int, dtypes: Sequence[str] = ("|i1",)
) -> "np.ndarray[Any, Any]":
    """The vectors of a request to `project`.

    Raises:
        ServedError: it is another request, or its vectors have another shape, dtype or values.
    """
    outputs = header.get("outputs")
    if header["op"] != "project" or len(arrays) != 1 or type(outputs) is not int or outputs < 1:
        raise ServedError("invalid", "a device is asked to `project` one array, to 1 output or more")
    vectors = arrays[0]
    if vectors.ndim != 2 or vectors.shape[1] != n_inputs or vectors.dtype.str not in dtypes:
        given = f"{vectors.dtype} {vectors.shape}"
        accepted = "{} (vectors, {})".format(" or ".join(dtypes), n_inputs)
        raise ServedError("invalid", f"vectors must be {accepted}; got {given}")
    if vectors.dtype == np.int8 and vectors.size and (vectors.min() < -1 or vectors.max() > 1):
        raise ServedError("invalid", "vectors must be of -1, 0 and 1")
    return vectors


class Stamp(NamedTuple):
    """Which frames these are; see `optical_dfa.emulator.FrameStamp`."""

    stream: int
    first_frame: int
    time_s: Optional[float]


class ServedBench(Served):
    """Serves `expose` of an object with the bench seam: `info`, `frame_time_us`, `configure`, `expose`.

    Args:
        make: makes the bench, on the thread that uses it.
        stamp: makes the stamp that the bench takes, of stream, first frame and time.
    """

    INFO = (
        "n_frame_inputs", "image_shape", "adc_bits", "saturation_dn", "gain_dn_per_e", "has_reference",
        "has_phase_modulator", "exposure_limits_us", "black_level_dn", "grain_px", "pupil", "carrier",
    )  # fmt: skip

    NEEDED = 8
    """So many of them have no default."""

    def __init__(self, make: Callable[[], Any], stamp: Callable[[int, int, Optional[float]], Any] = Stamp) -> None:
        self._make, self._stamp = make, stamp
        self._bench: Any = None
        self._configured: Any = None

    def open(self) -> Header:
        """See `Served`."""
        self._bench = self._make()
        info = {name: getattr(self._bench.info, name) for name in self.INFO if hasattr(self._bench.info, name)}
        if lacking := [name for name in self.INFO[: self.NEEDED] if name not in info]:
            raise ServedError("unavailable", "the bench's info lacks {}".format(", ".join(lacking)))
        plain = {name: np.asarray(value).tolist() if value is not None else None for name, value in info.items()}
        return {"serves": "bench", "bench": plain, "identity": {}, "settings": {}, "position": {}}

    def close(self) -> None:
        """See `Served`."""
        close = getattr(self._bench, "close", None)
        if close is not None:
            close()

    def perform(self, header: Header, arrays: Arrays, tell: Tell) -> Tuple[Header, Arrays]:
        """See `Served`. Every request brings exposure and reference: another client may have set others."""
        if header["op"] not in ("configure", "expose"):
            raise ServedError(
                "invalid", "a bench is asked to `configure` or to `expose`; got {!r}".format(header["op"])
            )
        try:
            wanted = (float(header["exposure_us"]), float(header["reference_e"]))
            if wanted != self._configured:
                self._configured = None
                self._bench.configure(exposure_us=wanted[0], reference_e=wanted[1])
                self._configured = wanted
            images = [] if header["op"] == "configure" else [self._expose(header, arrays)]
        except (KeyError, TypeError, ValueError) as error:
            raise ServedError("invalid", f"{error}") from error
        return {"frame_time_us": float(self._bench.frame_time_us)}, images

    def _expose(self, header: Header, arrays: Arrays) -> "np.ndarray[Any, Any]":
        frames, phases = arrays
        stream, first_frame, time_s = header["stamp"]
        at = self._stamp(stream, first_frame, time_s)
        images = self._bench.expose(frames, phases=phases, reference=bool(header["reference"]), at=at)
        return np.asarray(images)


# The server


class FairQueue:
    """First in, first out for each client; clients take turns."""

    def __init__(self) -> None:
        self._lines: OrderedDict[Any, Deque[Any]] = OrderedDict()

    def put(self, client: Any, item: Any) -> None:
        """Put an item at the end of the line of a client."""
        self._lines.setdefault(client, deque()).append(item)

    def get(self) -> Any:
        """The next item; its client then waits until all others had their turn."""
        client, line = self._lines.popitem(last=False)
        item = line.popleft()
        if line:
            self._lines[client] = line
        return item

    def waiting(self, client: Any) -> int:
        """Items in the line of a client."""
        return len(self._lines.get(client, ()))

    def drop(self, client: Any) -> List[Any]:
        """Take a client out of the queue; returns its items."""
        return list(self._lines.pop(client, ()))

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))


class Limits(NamedTuple):
    """What a server takes on."""

    message_bytes: int = 1 << 28
    """Largest array of a message."""
    requests_per_client: int = 16
    """Requests of one client that wait."""
    queue_bytes: int = 1 << 30
    """Arrays of all requests that wait."""
    cache_bytes: int = 1 << 28
    """Answers that are kept, until their clients say that they have them …"""
    cache_s: float = 600.0
    """… or for so long."""
    drain_s: float = 30.0
    """After SIGTERM, requests that wait are answered for so long."""


class Request(NamedTuple):
    """A request that waits or is being performed."""

    key: Key
    header: Header
    arrays: Arrays
    size: int
    """Bytes of the arrays."""


class Server:
    """Answers the requests of many clients, one at a time, each client in its turn.

    The network is on the thread that calls `run`, what is served on a thread of its own.

    Args:
        served: what it offers.
        address: where it listens, `tcp://HOST:PORT`, or `ipc://PATH`.
        key: file of its secret key; None: no encryption, for this machine only.
        clients: folder of the public keys of those who may use it.
        limits: what it takes on.

    Raises:
        ServedError: an address beyond this machine without keys, or a key that cannot be used.
    """

    def __init__(
        self,
        served: Served,
        address: str,
        key: Optional[str] = None,
        clients: Optional[str] = None,
        limits: Limits = Limits(),  # noqa: B008  # immutable
    ) -> None:
        if (key is None) != (clients is None):
            raise ServedError("invalid", "a key and a folder of clients' keys go together; give both or neither")
        if key is None and not is_local(address):
            raise ServedError(
                "invalid",
                f"{address} can be reached from other machines: give --key and --clients (`keys NAME` writes keys), or "
                "listen on tcp://127.0.0.1",
            )
        self.address, self._limits, self._clients = checked_address(address), limits, clients
        self._secret = None if key is None else read_key(key, secret=True)
        if clients is not None:
            try:
                allowed_keys(clients)
            except OSError as error:
                raise ServedError("invalid", f"{clients}: cannot be read: {error.strerror}") from None
        self.counts = dict.fromkeys(("performed", "failed", "refetched", "expired", "busy", "malformed", "denied"), 0)
        self._served = served
        self._info: Header = {}
        self._queue, self._queued_bytes = FairQueue(), 0
        self._askers: Dict[Key, bytes] = {}
        """Routing identity of who asked last for each request that is not answered."""
        self._deadlines: Dict[Key, float] = {}
        """When their clients give up, by the clock of this process."""
        self._messages: List[Any] = []
        """Those of the answer to the request that is being performed."""
        self._answers: OrderedDict[Key, Tuple[List[Any], int, float]] = OrderedDict()
        """Messages, bytes, and when they were sent."""
        self._answer_bytes = 0
        self._busy = False
        self._stops = 0
        self._tasks: queue.Queue[Optional[Request]] = queue.Queue()
        self._results: queue.Queue[Any] = queue.Queue()

    def stop(self) -> None:
        """Answer what waits, then return from `run`; called again: return at once. For any thread or signal handler."""
        self._stops += 1

    def run(self, ready: Callable[[str], None] = lambda address: None) -> None:
        """Serve until `stop`.

        Args:
            ready: called with the address once it listens.

        Raises:
            ServedError: what is served cannot be opened, or the address cannot be had.
        """
        self._context = zmq.Context()
        thread = threading.Thread(target=self._work, name="opu-server-device", daemon=True)
        self._wake = self._context.socket(zmq.PAIR)
        self._wake.bind("inproc://wake")
        thread.start()
        try:
            opened = self._results.get()
            if isinstance(opened, ServedError):
                raise opened
            digest = hashlib.sha256(json.dumps(opened, sort_keys=True).encode()).hexdigest()
            self._info = dict(opened, device=digest[:16], max_bytes=self._limits.message_bytes)
            if self._secret is not None:
                self._zap = self._context.socket(zmq.REP)
                self._zap.bind("inproc://zeromq.zap.01")
            self._listen()
            ready(self.address)
            self._loop()
        finally:
            self._tasks.put(None)
            thread.join(self._limits.drain_s if self._stops < 2 else 1.0)
            self._context.destroy(linger=1000)

    def _listen(self) -> None:
        router = self._context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.ROUTER_MANDATORY, 1), (zmq.MAXMSGSIZE, self._limits.message_bytes), (zmq.LINGER, 1000),
            (zmq.HEARTBEAT_IVL, 1000), (zmq.HEARTBEAT_TIMEOUT, 10000), (zmq.IPV6, "[" in self.address),
        ):  # fmt: skip
            router.setsockopt(option, value)
        if self._secret is not None:
            router.curve_secretkey, router.curve_server = self._secret, True
            router.curve_publickey = zmq.curve_public(self._secret)
        try:
            router.bind(self.address)
        except zmq.ZMQError as error:
            router.close()
            raise ServedError("unavailable", f"cannot listen on {self.address}: {error}") from None
        endpoint: Any = router.getsockopt(zmq.LAST_ENDPOINT)
        self.address = endpoint.decode().rstrip("\0")
        self._router = router

    def _loop(self) -> None:
        heartbeat = time.monotonic()
        give_up = math.inf
        while self._stops < 2:
            if self._stops and give_up == math.inf:
                log.info("stopping: %d requests wait", len(self._queue) + self._busy)
                give_up = time.monotonic() + self._limits.drain_s
            if self._stops and (time.monotonic() > give_up or not (self._busy or len(self._queue))):
                return
            sockets = [self._router, self._wake] + ([self._zap] if self._secret is not None else [])
            ready, _, _ = zmq.select(sockets, [], [], 0.1)
            if self._secret is not None and self._zap in ready:
                self._admit()
            if self._router in ready:
                self._receive(self._router.recv_multipart(copy=False))
            if self._wake in ready:
                self._wake.recv()
                self._answer(*self._results.get())
            self._feed()
            if time.monotonic() - heartbeat > HEARTBEAT_S:
                heartbeat = time.monotonic()
                self._reassure()
                self._forget_old()

    def _admit(self) -> None:
        """Say yes or no to a new connection (ZAP, https://rfc.zeromq.org/spec/27)."""
        version, number, _domain, address, _identity, mechanism, *credentials = self._zap.recv_multipart()
        name = None
        if mechanism == b"CURVE" and self._clients is not None:
            try:
                name = allowed_keys(self._clients).get(z85.encode(credentials[0]))
            except (OSError, ServedError) as error:
                log.error("keys of the clients: %s", error)
        if name is None:
            self.counts["denied"] += 1
            log.warning("refused a client at %s: its key is not in %s", address.decode(), self._clients)
            self._zap.send_multipart([version, number, b"400", b"unknown key", b"", b""])
        else:
            self._zap.send_multipart([version, number, b"200", b"OK", name.encode(), b""])

    def _receive(self, frames: List[Any]) -> None:
        identity = frames[0].bytes
        user = frames[0].get("User-Id") if self._secret is not None else ""
        try:
            header, arrays = unpack([frame.buffer for frame in frames[1:]])
            key, seconds = _checked(header, user)
        except ServedError as error:
            self.counts["malformed"] += 1
            log.debug("malformed message: %s", error)
            self._send(identity, pack({"type": "error", "kind": error.kind, "message": str(error)}))
            return
        self._forget(key[:2], header["oldest"])
        if header["op"] == "bye":
            for request in self._queue.drop(key[:2]):
                self._drop(request)
        elif header["op"] == "info":
            info = dict(self._info, counts=self.counts)
            self._send(identity, self._reply(key, {"type": "result", "info": info}))
        elif key in self._answers:
            self.counts["refetched"] += 1
            for message in self._answers[key][0]:
                self._send(identity, message)
        elif key in self._askers:
            self._askers[key] = identity
            self._deadlines[key] = time.monotonic() + seconds
            self._send(identity, self._reply(key, {"type": "alive"}))
        else:
            self._enqueue(identity, key, header, arrays, seconds)

    def _enqueue(self, identity: bytes, key: Key, header: Header, arrays: Arrays, seconds: float) -> None:
        size = sum(array.nbytes for array in arrays)
        full = self._queue.waiting(key[:2]) >= self._limits.requests_per_client
        full = full or self._queued_bytes + size > self._limits.queue_bytes
        if full or self._stops:
            self.counts["busy"] += 1
            why = "the server is stopping" if self._stops else "too many requests wait"
            self._send(identity, self._reply(key, {"type": "error", "kind": "busy", "message": why}))
            return
        self._queued_bytes += size
        self._askers[key] = identity
        self._deadlines[key] = time.monotonic() + seconds
        self._queue.put(key[:2], Request(key, header, arrays, size))

    def _feed(self) -> None:
        while not self._busy and len(self._queue):
            request = self._queue.get()
            if time.monotonic() > self._deadlines[request.key]:
                self.counts["expired"] += 1
                self._drop(request)
            else:
                self._queued_bytes -= request.size
                self._busy = True
                self._tasks.put(request)

    def _drop(self, request: Request) -> None:
        """Forget a request that waits."""
        self._queued_bytes -= request.size
        del self._askers[request.key], self._deadlines[request.key]

    def _work(self) -> None:
        """The thread of what is served."""
        wake = self._context.socket(zmq.PAIR)
        wake.connect("inproc://wake")
        try:
            self._results.put(self._served.open())
        except ServedError as error:
            self._results.put(error)
            wake.close()
            return
        except Exception as error:
            log.exception("cannot be opened")
            self._results.put(ServedError("unavailable", f"{type(error).__name__}: {error}"))
            wake.close()
            return
        try:
            for request in iter(self._tasks.get, None):

                def tell(array: Any, request: Request = request) -> None:
                    self._results.put((request, {"type": "part"}, [array]))
                    wake.send(b"")

                self._results.put((request, *self._perform(request, tell)))
                wake.send(b"")
        finally:
            wake.close()
            self._served.close()

    def _perform(self, request: Request, tell: Tell) -> Tuple[Header, Arrays]:
        expected = request.header.get("device")
        try:
            if expected != self._info["device"]:
                raise ServedError("fingerprint", "this server has another device, or other settings, than before")
            answer, arrays = self._served.perform(request.header, request.arrays, tell)
            return dict(answer, type="result"), arrays
        except ServedError as error:
            return {"type": "error", "kind": error.kind, "message": str(error)}, []
        except Exception as error:
            log.exception("a request failed")
            message = f"{type(error).__name__}: {error}"
            return {"type": "error", "kind": "fault", "message": message}, []

    def _answer(self, request: Request, answer: Header, arrays: Arrays) -> None:
        """Send a part of an answer, or its end."""
        messages, asker = self._messages, self._askers[request.key]
        messages.append(self._reply(request.key, dict(answer, part=len(messages)), arrays))
        if answer["type"] != "part":
            self._end(request, messages, answer["type"] == "result")
        self._send(asker, messages[-1])  # after the count: whoever has the answer finds it counted

    def _end(self, request: Request, messages: List[Any], good: bool) -> None:
        self._busy, self._messages = False, []
        del self._askers[request.key], self._deadlines[request.key]
        self.counts["performed" if good else "failed"] += 1
        if good:  # an error is not kept: asked again, the device tries again
            size = sum(len(frame) for message in messages for frame in message)
            self._answers[request.key] = (messages, size, time.monotonic())
            self._answer_bytes += size

    def _reassure(self) -> None:
        """Tell everybody who waits that we are here."""
        for key, identity in self._askers.items():
            self._send(identity, self._reply(key, {"type": "alive"}))

    def _forget_old(self) -> None:
        """Keep the cache within its limits; the newest answer always stays, however large."""
        oldest = time.monotonic() - self._limits.cache_s
        for key in list(self._answers):
            full = self._answer_bytes > self._limits.cache_bytes and len(self._answers) > 1
            if not full and self._answers[key][2] > oldest:
                return
            self._answer_bytes -= self._answers.pop(key)[1]

    def _forget(self, client: Tuple[str, bytes], oldest: int) -> None:
        """Forget the answers to a client before request number `oldest`: it has them."""
        for key in [key for key in self._answers if key[:2] == client and key[2] < oldest]:
            self._answer_bytes -= self._answers.pop(key)[1]

    def _reply(self, key: Key, header: Header, arrays: Arrays = []) -> List[Any]:  # noqa: B006  # not changed
        return pack(dict(header, session=key[1], number=key[2]), arrays)

    def _send(self, identity: bytes, frames: List[Any]) -> None:
        try:
            self._router.send_multipart([identity, *frames], zmq.NOBLOCK, copy=False)
        except zmq.ZMQError as error:
            if error.errno not in (errno.EHOSTUNREACH, errno.EAGAIN):
                raise
            log.debug("a client went away: %s", error)  # it will ask again


def _checked(header: Header, user: str) -> Tuple[Key, float]:
    """Key of a request, and for how many seconds its client waits.

    Raises:
        ServedError: the header lacks what every request has.
    """
    session, number, oldest = header.get("session"), header.get("number"), header.get("oldest")
    counted = all(type(n) is int and 0 <= n < 1 << 62 for n in (number, oldest))
    named = isinstance(session, bytes) and len(session) == 16 and isinstance(header.get("op"), str)
    seconds = header.get("seconds")
    timed = type(seconds) is float and 0 < seconds <= 86400
    if not (counted and named and timed):
        raise ServedError("protocol", "a request has op, session, number, oldest and seconds")
    return (user, session, number), seconds  # type: ignore[return-value]


def is_local(address: str) -> bool:
    """Whether an address can be reached from this machine only."""
    return bool(re.match(r"ipc://|inproc://|tcp://(127\.\d+\.\d+\.\d+|localhost|\[::1\]):", address))


def checked_address(address: str) -> str:
    """An address that can be meant: of a port above 65535 the network library would take another.

    Raises:
        ServedError: it is not of the form.
    """
    port = re.match(r"tcp://.+:(\d+|\*)$", address)
    if not (re.match("(ipc|inproc)://.", address) or (port and (port[1] == "*" or 1 <= int(port[1]) <= 65535))):
        raise ServedError("invalid", f"an address is tcp://HOST:PORT, PORT 1 ... 65535, or ipc://PATH; got {address!r}")
    return address


def run_until_signal(server: Server) -> None:
    """Run a server until SIGTERM or Ctrl-C; it then answers what waits. A second one ends it at once."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    server.run(lambda address: print(f"listening on {address}", flush=True))


# Command line


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Serves the vendor's OPU, or a bench, to optical_dfa.")
    commands = parser.add_subparsers(dest="command", required=True)
    keys = commands.add_parser("keys", help="write a pair of keys: NAME.secret stays here, NAME.public is to give away")
    keys.add_argument("name")
    serve = commands.add_parser("serve", help="serve until SIGTERM or Ctrl-C")
    what = serve.add_mutually_exclusive_group(required=True)
    what.add_argument("--lightonml", action="store_true", help="the vendor's OPU")
    what.add_argument("--bench", metavar="MODULE:FUNCTION", help="the bench that this function returns")
    serve.add_argument("--inputs", type=int, help="features of the OPU")
    serve.add_argument("--outputs", type=int, help="components of the OPU")
    serve.add_argument("--simulated", action="store_true", help="the vendor's simulator instead of the hardware")
    serve.add_argument("--exposure-us", type=int, help="exposure; default: the OPU's configuration")
    serve.add_argument("--config-file", default="", help="the OPU's configuration, an absolute path")
    serve.add_argument("--listen", default="tcp://127.0.0.1:5557", help="default: %(default)s")
    serve.add_argument("--key", help="file of this server's secret key")
    serve.add_argument("--clients", help="folder of the public keys of those who may use it")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    if not HAS_NETWORK:
        parser.error("needs pyzmq and msgpack: pip install pyzmq msgpack")
    try:
        if options.command == "keys":
            print("wrote {} and {}".format(*write_keys(".", options.name)))
            return 0
        run_until_signal(Server(_served(options, parser), options.listen, options.key, options.clients))
    except ServedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if error.kind == "invalid" else 1
    return 0


def _served(options: argparse.Namespace, parser: argparse.ArgumentParser) -> Served:
    if options.lightonml:
        if options.inputs is None or options.outputs is None:
            parser.error("--lightonml needs --inputs and --outputs")
        opu = LightonOpu(options.inputs, options.outputs, options.simulated, options.exposure_us, options.config_file)
        return ServedOpu(opu)

    def make() -> Any:
        module, _, function = options.bench.partition(":")
        sys.path.insert(0, os.getcwd())
        return getattr(importlib.import_module(module), function)()

    return ServedBench(make)


if __name__ == "__main__":
    sys.exit(main())
