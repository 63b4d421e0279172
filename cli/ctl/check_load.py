"""The load of a check: many clients that put, each over a connection of its own, on one event loop.

As in etcdctl a limiter hands out the writes at an even rate, into a queue that has room for one
write a client; what finds the queue full is not done, so that a slow server is not pressed later
for what it missed. Unlike there, a late limiter catches up: our own lateness is no fault of the
server. A write is sent once. One whose connection breaks has failed, and its client connects again,
to the next endpoint; writes that are not sent yet wait for that. With a user all share one token,
and get a new one when it is refused.

The load ends with its time, with its number of writes, or by `is_stopped`; what is on its way then
has DRAIN_S, where etcdctl may wait for ever.
"""

import asyncio
import random
import resource
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import uvloop

from pyetcd.cli.bench_h2 import Connection, Load, Metadata
from pyetcd.cli.client import PUT, Client, ClientError
from pyetcd.cli.ctl.check_bar import Bar
from pyetcd.cli.ctl.check_figures import Figures, figures
from pyetcd.cli.dial import Route, Settings, route, trust
from pyetcd.proto import rpc_pb2 as rpc

PACE_S = 0.001  # how often writes are handed out
OPEN_S = 10.0  # for a connection; and for all of them, before the load begins without the others
OPEN_PACE_S = 0.01  # how often it is looked whether they are there
OPENING_MAX = 64  # connections that are made at a time
RECONNECT_S = 0.2
DRAIN_S = 30.0  # for what is on its way at the end
SWEEP_S = 1.0  # how often silent connections are looked for
RENEWALS_MAX = 3  # new tokens: one that is refused again and again would never do
ROUNDING = 1e-6  # a write that is due but for an error of arithmetic
FILES_SPARE = 64  # beside the connections
UNAVAILABLE: Final = 14
_clock = time.perf_counter


class Plan(NamedTuple):
    """What is to be written. With a rate the load ends after `duration_s`, else after `total`."""

    prefix: bytes
    key_bytes: int
    value_bytes: int
    clients: int
    writes_per_s: int = 0
    duration_s: float = 0.0
    total: int = 1 << 62


class Pace:
    """How many writes enter the queue, as time goes."""

    def __init__(self, writes_per_s: int, queue_max: int, now_s: float) -> None:
        self._writes_per_s = writes_per_s
        self._queue_max = queue_max
        self._until_s = now_s - 1 / writes_per_s  # handed out until here; the first leaves at once

    def due(self, now_s: float, queued: int) -> int:
        """How many are to be added to `queued` ones."""
        count = int((now_s - self._until_s) * self._writes_per_s + ROUNDING)
        room = self._queue_max - queued
        if count > room:
            self._until_s = now_s
            return max(room, 0)
        self._until_s += count / self._writes_per_s
        return count


class Run:
    """One load, from its start to its figures."""

    def __init__(
        self,
        plan: Plan,
        client: Client,
        settings: Settings,
        *,
        is_stopped: Callable[[], bool],
        is_logging: bool,
    ) -> None:
        """`is_logging`: each write that fails is a line of the client's log."""
        self.plan = plan
        self.load = put_load(plan)
        self.load.allowance = 0
        self._is_stopped = is_stopped
        self._connections = Connections(self.load, plan.clients, client, settings)
        if is_logging:
            self.load.on_fail = self._connections.log
        self._ends_s = 0.0
        self._stopped_s: float | None = None

    def put_all(self, bar: Bar) -> Figures:
        """Runs the load; blocks."""
        _allow_files(self.plan.clients + FILES_SPARE)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(self._put_all(bar))

    async def _put_all(self, bar: Bar) -> Figures:
        load, plan = self.load, self.plan
        await self._connections.open(self._is_stopped)
        start_s = swept_s = _clock()
        self._ends_s = start_s + plan.duration_s
        pace = Pace(plan.writes_per_s, plan.clients, start_s) if plan.writes_per_s else None
        load.allowance = None if pace is None else 0
        try:
            while True:
                now_s = _clock()
                if self._is_over(now_s):
                    break
                if pace is not None and self._stopped_s is None:
                    assert load.allowance is not None
                    load.allowance += pace.due(now_s, load.allowance)
                load.wake()
                self._show(bar, start_s, now_s)
                if now_s - swept_s >= SWEEP_S:
                    swept_s = now_s
                    self._connections.sweep(now_s)
                await asyncio.sleep(PACE_S)
            took_s = _clock() - start_s
        finally:
            await self._connections.close()
            if self._is_stopped():
                bar.leave()
        bar.finish(_clock())
        return figures(load.latencies_s, took_s, load.errors)

    def _is_over(self, now_s: float) -> bool:
        """Whether all is done; stops the load when it is time to."""
        load = self.load
        if self._stopped_s is None:
            is_late = bool(self.plan.writes_per_s) and now_s >= self._ends_s
            if is_late or self._is_stopped():
                self._stopped_s = now_s
                load.total = load.started + (load.allowance or 0)
        elif now_s - self._stopped_s >= DRAIN_S and load.finished < load.total:
            load.fail("context deadline exceeded", load.total - load.finished)
        return load.finished >= load.total

    def _show(self, bar: Bar, start_s: float, now_s: float) -> None:
        if self._is_stopped():
            bar.leave()
            return
        passed_s = now_s - start_s
        done = self.load.finished
        if not self.plan.writes_per_s:
            current = done
        elif passed_s < self.plan.duration_s:
            current = int(passed_s)
        else:
            bar.finish(now_s)
            return
        bar.show(current, now_s, f"{done / passed_s:.0f} writes/s" if passed_s >= 1 else "")


class Connections:
    """A connection for each client, made again when it is lost."""

    def __init__(self, load: Load, count: int, client: Client, settings: Settings) -> None:
        self._load = load
        self._count = count
        self._client = client
        self._settings = settings
        found = (route(endpoint, settings) for endpoint in client.endpoints)
        self._routes: Sequence[Route] = [one for one in found if one is not None]
        self._live: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._opening = asyncio.Semaphore(OPENING_MAX)
        self._renewing = asyncio.Lock()
        self._renewals = 0
        self._stale_token = ""
        self._failures: dict[str, ClientError] = {}  # by their texts, of which there are few
        self._is_closed = False
        self._trust = None
        if any(one.is_secure for one in self._routes):
            self._trust = trust(settings)
            self._trust.set_alpn_protocols(["h2"])  # etcd hangs up on who does not ask for it
        load.describe = self._describe
        load.is_stale = self._is_stale

    async def open(self, is_stopped: Callable[[], bool]) -> None:
        """Makes them, as far as that is possible soon; the others come when they can."""
        for place in range(self._count):
            self._start(place, 0, 0.0)
        for _ in range(int(OPEN_S / OPEN_PACE_S)):
            if len(self._live) >= self._count or is_stopped():
                break
            await asyncio.sleep(OPEN_PACE_S)

    async def close(self) -> None:
        """Closes them all."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in list(self._live):
            connection.close()
        for _ in range(100):  # TLS says goodbye
            if not self._live:
                break
            await asyncio.sleep(PACE_S)

    def sweep(self, now_s: float) -> None:
        """Looks after those that wait for a silent server."""
        after_s = self._settings.keepalive_ms / 1000
        patience_s = self._settings.keepalive_timeout_ms / 1000
        for connection in list(self._live):
            connection.ask(now_s, after_s=after_s, patience_s=patience_s)

    def _start(self, place: int, attempt: int, delay_s: float) -> None:
        task = asyncio.get_running_loop().create_task(self._connect(place, attempt, delay_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, place: int, attempt: int, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        to = self._routes[(place + attempt) % len(self._routes)]
        await self._renew()
        token = self._client.token
        metadata = ((b"token", token.encode()),) if token else ()

        def made() -> Connection:
            return Connection(
                self._load, to.authority, 1, is_secure=to.is_secure, metadata=metadata
            )

        def lost(connection: Connection) -> None:
            self._live.discard(connection)
            if not self._is_closed:
                self._start(place, 0, 0.0 if connection.draining else RECONNECT_S)

        try:
            async with self._opening, asyncio.timeout(OPEN_S):
                connection = await self._dial(to, made)
        except OSError:
            self._start(place, attempt + 1, RECONNECT_S)
            return
        self._live.add(connection)
        connection.on_lost = lost
        if not connection.is_open:
            lost(connection)

    async def _dial(self, to: Route, made: Callable[[], Connection]) -> Connection:
        loop = asyncio.get_running_loop()
        secure = self._trust if to.is_secure else None
        name = to.host if secure else None
        if isinstance(to.address, str):
            _, connection = await loop.create_unix_connection(
                made, to.address, ssl=secure, server_hostname=name
            )
        else:
            host, port = to.address
            _, connection = await loop.create_connection(
                made, host, port, ssl=secure, server_hostname=name
            )
        return connection

    async def _renew(self) -> None:
        """Gets a new token, once for all who were refused with the old one."""
        async with self._renewing:
            if not self._stale_token or self._stale_token != self._client.token:
                return
            self._renewals += 1
            try:
                await asyncio.to_thread(self._client.renew)
            except ClientError:
                return

    def _is_stale(self, text: str, metadata: Metadata) -> bool:
        """Of a connection that showed the token in `metadata`, maybe an older one."""
        if self._renewals >= RENEWALS_MAX or not metadata:
            return False
        if not self._client.is_stale(ClientError("", text, text)):
            return False
        self._stale_token = metadata[0][1].decode()
        return True

    def _describe(self, code: int | None, text: str) -> str:
        """etcdctl's words. A connection's end has one word for whatever ended it."""
        failure = self._client.failure(UNAVAILABLE if code is None else code, text)
        self._failures[failure.text] = failure
        return failure.text

    def log(self, text: str, count: int) -> None:
        """A line for each write that failed so."""
        if (failure := self._failures.get(text)) is not None:
            for _ in range(count):
                self._client.note(failure)


def put_load(plan: Plan) -> Load:
    """Puts under random keys; one cut of a message is made, and only its key changes."""
    place = b"\xff" * plan.key_bytes
    request = rpc.PutRequest(key=plan.prefix + place, value=bytes(plan.value_bytes))
    raw = request.SerializeToString()
    at = raw.rindex(place)  # the value that follows holds no such byte, nor does its tag
    head, tail = raw[:at], bytes(plan.key_bytes - 8) + raw[at + plan.key_bytes :]
    number = random.Random().getrandbits

    def message() -> bytes:
        return head + number(64).to_bytes(8, "big") + tail

    return Load(PUT.path, len(raw), message, plan.total)


def _allow_files(count: int) -> None:
    """Raises the number of open files as far as the system lets us; Go programs do so, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
