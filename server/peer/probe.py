"""Round trips to peers: how long they take, and whether the clocks agree.

Strategy. Every PROBE_S one GET /raft/probing to each peer; the answer has the peer's wall clock.
The round trip is smoothed as TCP does it (RFC 6298: alpha 1/8), the difference of the clocks is
taken against the middle of the round trip. A person hears of an unreachable peer every 5 s, of a
reachable one with a clock more than 1 s off every 30 s, as from etcd (probing_status.go). No
clock decides anything in raft; leases and the wish to understand logs are why drift is told.
"""

import asyncio
import json
import time
from datetime import UTC, datetime
from typing import Final

from pyetcd.server.logs import Log
from pyetcd.server.peer.activity import Durations, UrlPicker
from pyetcd.server.peer.client import HttpClient, Unreachable

PROBE_S: Final = 4.0  # below the 5 s after which etcd closes a silent connection
CLOCK_DRIFT_S_MAX: Final = 1.0
UNHEALTHY_LOG_S: Final = 5.0
HEALTHY_LOG_S: Final = 30.0
_SMOOTHING: Final = 1 / 8


def probe_answer(now_ns: int) -> bytes:
    """What GET /raft/probing answers: Go's encoding of its time."""
    seconds, nanos = divmod(now_ns, 1_000_000_000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{nanos:09}".rstrip("0").rstrip(".")
    return f'{{"OK":true,"Now":"{text}{fraction}Z"}}\n'.encode()


def parse_probe_answer(body: bytes) -> float:
    """The peer's clock in unix seconds. ValueError if it is no such answer."""
    fields = json.loads(body)
    if not isinstance(fields, dict) or fields.get("OK") is not True:
        raise ValueError("not healthy")
    text = fields.get("Now")
    if not isinstance(text, str):
        raise ValueError("no clock")
    # Go writes up to nine digits and may write a zone; Python reads six of them.
    return datetime.fromisoformat(text).timestamp()


class Prober:
    """Probes one peer."""

    def __init__(
        self, peer_id: int, *, client: HttpClient, picker: UrlPicker, rtt: Durations, log: Log
    ) -> None:
        self.is_healthy = False
        self.rtt_s = 0.0
        self.clock_drift_s = 0.0
        self._peer_id = peer_id
        self._client = client
        self._picker = picker
        self._rtt = rtt
        self._log = log
        self._reason = ""

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        next_log_s = loop.time() + UNHEALTHY_LOG_S
        while True:
            await self.probe()
            if loop.time() >= next_log_s:
                next_log_s = loop.time() + self._tell()
            await asyncio.sleep(PROBE_S)

    async def probe(self) -> None:
        """One round trip."""
        loop = asyncio.get_running_loop()
        sent_s, sent_wall_s = loop.time(), time.time()
        url = self._picker.pick()
        try:
            response = await self._client.request(
                "GET", url, "/raft/probing", headers={}, timeout_s=PROBE_S
            )
            if response.status != 200:
                raise Unreachable(f"unhandled http status {response.status}")
            theirs_s = parse_probe_answer(response.body)
        except (Unreachable, ValueError) as error:
            self.is_healthy = False
            self._reason = str(error)
            return
        rtt_s = loop.time() - sent_s
        self.is_healthy = True
        self.rtt_s += (rtt_s - self.rtt_s) * (_SMOOTHING if self.rtt_s else 1)
        self.clock_drift_s = abs(theirs_s - (sent_wall_s + rtt_s / 2))
        self._rtt.observe(rtt_s)

    def _tell(self) -> float:
        """Log what is wrong; returns when to look again."""
        fields = {
            "round_tripper_name": "ROUND_TRIPPER_RAFT_MESSAGE",
            "remote_peer_id": f"{self._peer_id:x}",
            "rtt": f"{self.rtt_s:.6f}s",
        }
        if not self.is_healthy:
            self._log.warn("prober detected unhealthy status", **fields, error=self._reason)
            return UNHEALTHY_LOG_S
        if self.clock_drift_s > CLOCK_DRIFT_S_MAX:
            drift = f"{self.clock_drift_s:.6f}s"
            self._log.warn("prober found high clock drift", **fields, clock_drift=drift)
        return HEALTHY_LOG_S
