"""A device server that fails on purpose: to rehearse what a run survives."""

import logging
import os
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from optical_dfa.devices.server.opu_server import Arrays, Header, Key, Request, Served, ServedError, Server, Tell
from optical_dfa.emulator.checks import require

FaultKind = Literal["lost", "late", "garbage", "disconnect", "slow", "timeout", "fault"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FaultPlan:
    """Which requests fail, and how.

    The kinds: the request is lost; its answer is lost, or garbage; all connections are cut; the device is slow, does
    not answer, or answers wrongly.
    """

    rate: float
    """Fraction of the requests that fail."""
    seed: int = 0
    kinds: tuple[FaultKind, ...] = get_args(FaultKind)
    """Each as likely as the others."""
    slow_s: float = 0.2
    """What a slow device takes longer, seconds."""

    def __post_init__(self) -> None:
        require(0 <= self.rate < 1, "rate", self.rate, "a number from 0 to below 1")
        require(bool(self.kinds), "kinds", self.kinds, f"some of {', '.join(get_args(FaultKind))}")


class FaultyServer(Server):
    """A `Server` in which requests fail at random.

    Args:
        served: what it offers.
        address: where it listens.
        plan: what fails.
        options: further arguments of `Server`.
    """

    def __init__(self, served: Served, address: str, plan: FaultPlan, **options: Any) -> None:
        super().__init__(served, address, **options)
        self.injected: Counter[str] = Counter()
        self._plan = plan
        self._random = np.random.default_rng(plan.seed)
        self._faults: dict[Key, FaultKind] = {}

    def _enqueue(self, identity: bytes, key: Key, header: Header, arrays: Arrays, seconds: float) -> None:
        kind = self._draw()
        if kind == "disconnect":
            self._cut()
        elif kind != "lost":
            if kind:
                self._faults[key] = kind
            super()._enqueue(identity, key, header, arrays, seconds)

    def _draw(self) -> FaultKind | None:
        if self._random.random() >= self._plan.rate:
            return None
        kind = self._plan.kinds[self._random.integers(len(self._plan.kinds))]
        self.injected[kind] += 1
        log.info("fault: %s", kind)
        return kind

    def _cut(self) -> None:
        """End all connections; clients may come back at once."""
        self._router.close(linger=0)
        for _ in range(100):
            try:
                return self._listen()
            except ServedError:  # the old socket lets go of its port in its own time
                time.sleep(0.05)
        self._listen()
        return None

    def _perform(self, request: Request, tell: Tell) -> tuple[Header, Arrays]:
        kind = self._faults.get(request.key)
        if kind == "slow":
            time.sleep(self._plan.slow_s)
        if kind in ("timeout", "fault"):
            return {"type": "error", "kind": kind, "message": f"injected {kind}"}, []
        return super()._perform(request, tell)

    def _answer(self, request: Request, answer: Header, arrays: Arrays) -> None:
        kind = None if answer["type"] == "part" else self._faults.pop(request.key, None)
        if kind == "garbage":
            self._send(self._askers[request.key], [os.urandom(24), os.urandom(100)])
        if kind in ("late", "garbage"):
            self._askers[request.key] = b"nobody"
        super()._answer(request, answer, arrays)
