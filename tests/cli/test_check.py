"""`check`: the verdict, the bar and the pace by themselves, and the load against a server of ours
that does what it is told."""

import asyncio
import math
import re
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pyetcd.cli import h2_frames as h2
from pyetcd.cli.client import Client
from pyetcd.cli.ctl import check_load
from pyetcd.cli.ctl.check_bar import TextBar, line, time_left
from pyetcd.cli.ctl.check_figures import Figures, error_lines, figures, memory_line, verdict
from pyetcd.cli.ctl.check_load import Pace, Plan, Run, put_load
from pyetcd.cli.ctl.check_memory import Unread, value
from pyetcd.cli.dial import Settings
from pyetcd.proto import rpc_pb2 as rpc

SECOND = 10**9

# -- the verdict ---------------------------------------------------------------------------------


def judged(rate: float, slowest_s: float = 0.1, stddev_s: float = 0.01, **errors: int) -> str:
    lines, is_well = verdict(Figures(rate, slowest_s, stddev_s, errors), 150)
    return " | ".join([*lines, str(is_well)])


def test_verdict():
    fine = "PASS: Slowest request took 0.100000s | PASS: Stddev is 0.010000s"
    assert judged(149.99) == f"PASS: Throughput is 150 writes/s | {fine} | True"
    assert judged(150.2) == f"PASS: Throughput is 151 writes/s | {fine} | True"
    assert judged(135.1) == f"PASS: Throughput is 136 writes/s | {fine} | True"
    assert judged(135.0) == f"FAIL: Throughput too low: 136 writes/s | {fine} | False"
    assert judged(150, 0.5, 0.1).endswith("took 0.500000s | PASS: Stddev is 0.100000s | True")
    assert judged(150, 0.51).endswith(
        "Slowest request took too long: 0.510000s | PASS: Stddev is 0.010000s | False"
    )
    assert judged(150, 0.1, 0.2).endswith("took 0.100000s | Stddev too high: 0.200000s | False")
    assert judged(150, b=2, a=1) == (
        "FAIL: too many errors | FAIL: ERROR(a) -> 1 | FAIL: ERROR(b) -> 2"
        f" | PASS: Throughput is 151 writes/s | {fine} | False"
    )
    nothing = figures([], 3.0, {"x": 450})
    assert math.isnan(nothing.stddev_s)
    assert verdict(nothing, 150)[0][2:] == [
        "FAIL: Throughput too low: 1 writes/s",
        "PASS: Slowest request took 0.000000s",
        "PASS: Stddev is NaNs",
    ]
    assert error_lines({}) == []


def test_figures():
    assert figures([0.1, 0.3, 0.2, 0.2], 2.0, {}) == Figures(
        2.0, 0.3, pytest.approx(math.sqrt(0.02 / 4)), {}
    )


@pytest.mark.parametrize(
    ("after", "shown"), ((57671680, "54.00"), (1 << 20, "0.00"), (0, "-1.00"), (1e9, "952.67"))
)
def test_memory(after: float, shown: str):
    expected = f"PASS: Approximate system memory used : {shown} MB."
    assert memory_line(1 << 20, after) == expected


def test_memory_of_a_page():
    page = "# HELP process_resident_memory_bytes R.\nprocess_resident_memory_bytes 5.4837248e+07\n"
    assert value(page) == 54837248
    with pytest.raises(Unread, match=r"^could not find: process_resident_memory_bytes$"):
        value("404 page not found\n")
    with pytest.raises(Unread, match=r'^parse error: strconv.ParseFloat: parsing "x": invalid'):
        value("process_resident_memory_bytes x\n")


# -- the bar -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("current", "total", "left", "width", "expected"),
    (
        (0, 60, "", 0, " 0 / 60    0.00%"),
        (1, 60, " 00m59s", 0, " 1 / 60    1.67% 00m59s"),
        (60, 60, " 1m0s", 0, " 60 / 60  100.00% 1m0s"),
        (0, 10000, "", 80, f" 0 / 10000 B{' ' * 59}!   0.00%"),
        (1694, 10000, "", 80, f" 1694 / 10000 B{'o' * 9}m{' ' * 46}!  16.94%"),
        (2633, 10000, " 00m01s", 80, f" 2633 / 10000 B{'o' * 12}m{' ' * 36}!  26.33% 00m01s"),
        (9784, 10000, "", 80, f" 9784 / 10000 B{'o' * 54}m !  97.84%"),
        (10000, 10000, " 1s", 80, f" 10000 / 10000 B{'o' * 52}! 100.00% 1s"),
        (5, 60, "", 18, " 5 / 60    8.33%  "),
        (5, 60, "", 19, " 5 / 60 Bo!   8.33%"),
    ),
)
def test_line(current: int, total: int, left: str, width: int, expected: str):
    """As etcdctl draws it."""
    assert line(current, total, left, width) == expected


@pytest.mark.parametrize(
    ("current", "total", "passed_s", "still_s", "shown"),
    (
        (0, 60, 0, 9, ""),
        (1, 60, 1.0, 0.0, " 00m59s"),
        (1, 60, 1.0, 0.2, " 00m58s"),
        (59, 60, 59.0, 0.2, ""),
        (100, 10100, 100.0, 0.0, " 2h46m40s"),
        (1, 3601, 1.0, 0.0, " 60m00s"),
        (1, 90062, 1.0, 0.0, " 1d1h01m01s"),
    ),
)
def test_time_left(current: int, total: int, passed_s: float, still_s: float, shown: str):
    passed_ns, still_ns = int(passed_s * SECOND), int(still_s * SECOND)
    assert time_left(current, total, passed_ns, still_ns) == shown


def test_text_bar():
    written: list[bytes] = []
    bar = TextBar(3, 0, written.append)
    for tick in range(32):  # 3.1 s in tenths
        bar.show(min(tick // 10, 3), 100 + tick / 10, "")
    bar.finish(103.1)
    bar.show(3, 104, "")
    bar.leave()
    shown = b"".join(written).decode().split("\r")[1:]
    assert shown[0] == " 0 / 3    0.00%"
    assert shown[-1] == " 3 / 3  100.00% 3s\n"
    assert " 1 / 3   33.33% 00m02s" in shown
    assert len(shown) <= 17
    left: list[bytes] = []
    bar = TextBar(3, 0, left.append)
    bar.leave()
    assert left == []
    bar = TextBar(3, 0, left.append)
    bar.show(0, 0, "")
    bar.leave()
    bar.finish(1)
    assert left == [b"\r 0 / 3    0.00%", b"\n"]


# -- the pace ------------------------------------------------------------------------------------


def test_pace_is_even():
    pace = Pace(150, 50, 10.0)
    handed = [pace.due(10.0 + tick / 1000, 0) for tick in range(2001)]
    assert handed[0] == 1
    assert set(handed) == {0, 1}
    assert sum(handed) in (300, 301)


def test_pace_of_a_full_queue():
    """What finds no room is lost; what we are late for is not."""
    pace = Pace(100, 20, 0.0)
    assert pace.due(0.0, 0) == 1
    assert pace.due(0.1, 1) == 10
    assert pace.due(1.1, 11) == 9
    assert pace.due(1.1, 20) == 0
    assert pace.due(1.2, 20) == 0
    assert pace.due(1.3, 0) == 10


@pytest.mark.parametrize("prefix", (b"", b"/p/", b"\xff\xff", b"x" * 200))
def test_messages(prefix: bytes):
    load = put_load(Plan(prefix, 256, 1024, 1))
    keys = set()
    for _ in range(50):
        raw = load.message()
        assert len(raw) == load.message_bytes
        request = rpc.PutRequest.FromString(raw)
        assert request.key.startswith(prefix)
        assert (len(request.key), request.value) == (len(prefix) + 256, bytes(1024))
        keys.add(request.key)
    assert len(keys) == 50


# -- the load against a server that does what it is told ------------------------------------------


class Server(asyncio.Protocol):
    """One connection of a server that answers puts with `Script.answer`."""

    def __init__(self, script: "Script") -> None:
        self._script = script
        self._buffer = b""
        self._is_greeted = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._script.connections += 1
        wide = h2.SETTING.pack(h2.INITIAL_WINDOW_SIZE, 1 << 30)
        self._transport.write(
            h2.frame(h2.SETTINGS, 0, 0, wide)
            + h2.frame(h2.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 30))
        )

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._is_greeted:
            if len(self._buffer) < len(h2.PREFACE):
                return
            self._buffer, self._is_greeted = self._buffer[len(h2.PREFACE) :], True
        while len(self._buffer) >= 9:
            length = int.from_bytes(self._buffer[:3], "big")
            if len(self._buffer) < 9 + length:
                return
            kind, flags = self._buffer[3], self._buffer[4]
            stream_id = int.from_bytes(self._buffer[5:9], "big")
            payload, self._buffer = self._buffer[9 : 9 + length], self._buffer[9 + length :]
            if kind == h2.HEADERS and b"token" in payload:
                self._script.tokens.append(re.sub(rb"(?s).*token.", b"", payload))
            elif kind == h2.PING:
                self._script.pings += 1
            elif kind == h2.DATA and flags & h2.END_STREAM:
                self._script.puts += 1
                self._answer(stream_id, self._script.answer())

    def _answer(self, stream_id: int, answer: "Answer") -> None:
        if answer == "hang up":
            self._transport.abort()
        elif isinstance(answer, tuple):
            code, text = answer
            trailers = b"".join(
                b"\x00" + bytes((len(name),)) + name + bytes((len(text),)) + text
                for name, text in (
                    (b"grpc-status", b"%d" % code),
                    (b"grpc-message", text.encode()),
                )
            )
            self._transport.write(
                h2.frame(h2.HEADERS, h2.END_HEADERS, stream_id, b"\x88")
                + (h2.frame(h2.DATA, 0, stream_id, bytes(5)) if not code else b"")
                + h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, stream_id, trailers)
            )


OK = (0, "")
Answer = tuple[int, str] | str | None


class Script:
    """What the server is told, and what it saw."""

    def __init__(self, answer: Callable[["Script"], Answer]) -> None:
        self._choose = answer
        self.connections = self.puts = self.pings = 0
        self.tokens: list[bytes] = []

    def answer(self) -> Answer:
        return self._choose(self)


@contextmanager
def serving(script: Script) -> Iterator[str]:
    """The endpoint of a server in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> asyncio.Server:
        return await loop.create_server(lambda: Server(script), "127.0.0.1", 0)

    async def stop() -> None:
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0.01)

    server = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class Shown:
    """A bar that only notes."""

    def __init__(self) -> None:
        self.ends: list[str] = []
        self.last = 0

    def show(self, current: int, now_s: float, note: str) -> None:
        self.last = current

    def finish(self, now_s: float) -> None:
        if not self.ends:
            self.ends.append("finished")

    def leave(self) -> None:
        if not self.ends:
            self.ends.append("left")


class User(Client):
    """A client whose new tokens come from here."""

    renewals = 0

    def authenticate(self) -> None:
        self.renewals += 1
        self._token = f"new-{self.renewals}"


def run(
    script: Script, plan: Plan, *, token: str = "", is_stopped: Callable[[], bool] = lambda: False
) -> tuple[Figures, Shown, list[str]]:
    logged: list[str] = []
    bar = Shown()
    with serving(script) as endpoint:
        settings = Settings([endpoint], 2.0, 100, 100, user="u", password="p")
        client = User([endpoint], settings, warn=logged.append)
        client._token = token
        load = Run(plan, client, settings, is_stopped=is_stopped, is_logging=True)
        found = load.put_all(bar)
    return found, bar, logged


def test_a_load_with_a_total():
    script = Script(lambda script: OK)
    found, bar, logged = run(script, Plan(b"/p/", 512, 512, 40, total=1000))
    assert (script.connections, script.puts) == (40, 1000)
    assert found.errors == {} and found.writes_per_s > 0
    assert (bar.ends, logged) == (["finished"], [])


def test_a_load_with_a_rate():
    """Never more than its rate: on a slow machine fewer."""
    script = Script(lambda script: OK)
    found, bar, _ = run(script, Plan(b"/p/", 256, 1024, 20, 200, 1.0))
    assert script.connections == 20
    assert 1 <= script.puts <= 202
    assert found.errors == {} and found.slowest_s > 0
    assert bar.ends == ["finished"]


def test_errors_are_counted_and_logged():
    refused = (7, "etcdserver: permission denied")
    script = Script(lambda script: refused if script.puts % 10 == 0 else OK)
    found, _, logged = run(script, Plan(b"/p/", 256, 1024, 5, total=100))
    assert found.errors == {"etcdserver: permission denied": 10}
    assert len(logged) == 10
    assert all("code = PermissionDenied desc = etcdserver: permission denied" in x for x in logged)


def test_a_lost_connection_fails_its_write_alone():
    script = Script(lambda script: "hang up" if script.puts == 50 else OK)
    found, _, logged = run(script, Plan(b"/p/", 256, 1024, 1, total=100))
    assert found.errors == {"rpc error: code = Unavailable desc = transport is closing": 1}
    assert (script.puts, script.connections, len(logged)) == (100, 2, 1)


def test_a_refused_token_is_renewed():
    """The write was not looked at, and goes again with the new token."""
    stale = (16, "etcdserver: invalid auth token")
    script = Script(lambda script: stale if script.tokens[-1] == b"old" else OK)
    script.tokens.append(b"old")
    found, _, logged = run(script, Plan(b"/p/", 256, 1024, 4, total=50), token="old")
    assert (found.errors, logged) == ({}, [])
    assert {b"old", b"new-1"} == set(script.tokens)


def test_a_token_that_is_refused_again_and_again():
    stale = (16, "etcdserver: invalid auth token")
    script = Script(lambda script: stale)
    found, _, _ = run(script, Plan(b"/p/", 256, 1024, 2, total=20), token="old")
    assert found.errors == {"etcdserver: invalid auth token": 20}


def test_stopped():
    """What is on its way is waited for; nothing more leaves."""
    script = Script(lambda script: OK)
    found, bar, _ = run(
        script, Plan(b"/p/", 256, 1024, 5, 1000, 60.0), is_stopped=lambda: script.puts >= 20
    )
    assert 20 <= script.puts < 1000
    assert found.errors == {}
    assert bar.ends == ["left"]


def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch):
    """It is asked whether it lives, then its connections are given up; at last so is the load."""
    monkeypatch.setattr(check_load, "SWEEP_S", 0.02)
    monkeypatch.setattr(check_load, "DRAIN_S", 0.0)
    script = Script(lambda script: None)
    found, _, _ = run(script, Plan(b"/p/", 256, 1024, 2, 100, 1.5))
    assert script.pings >= 2
    assert script.connections > 2
    closing = "rpc error: code = Unavailable desc = transport is closing"
    assert set(found.errors) <= {closing, "context deadline exceeded"}
    assert found.errors[closing] >= 2
    assert sum(found.errors.values()) >= script.puts


def test_a_server_that_is_slow_at_the_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(check_load, "DRAIN_S", 0.05)
    script = Script(lambda script: OK if script.puts <= 3 else None)
    found, _, _ = run(script, Plan(b"/p/", 256, 1024, 2, 100, 0.1))
    assert 1 <= found.errors.get("context deadline exceeded", 0) <= 4
