"""Ten thousand watchers of one node: does each get every event, and what does an idle one cost?

    python tests/bench/fanout.py                    real etcd 3.5.1 and pyetcd in turn
    python tests/bench/fanout.py --program pyetcd --watchers 500 --writes 100

Half of the watchers watch one key, four tenths ranges of many shapes around it, a tenth a key of
their own. Each write is a transaction that puts all of these keys, so each watcher has exactly one
event in each revision: with the usual numbers ten million in all.

Every response is looked at. The client reads raw frames; what it has not seen before it parses, and
a response whose bytes behind header and id are known is known too. Per watcher the revisions have
to be those of the run, one after the other, of its own key, with the value of that write, and not
ahead of the response's header. Writes are made by a process of its own, one after the other.
"""

import argparse
import asyncio
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import grpc
from compare import MAIN, REAL, Node

from pyetcd.cli import bench_h2 as h2
from pyetcd.proto.keys import prefix_end
from pyetcd.proto.rpc_pb2 import (
    PutRequest,
    RangeRequest,
    RangeResponse,
    ResponseHeader,
    TxnRequest,
    WatchRequest,
    WatchResponse,
)

SERVERS = {"etcd": [str(REAL / "etcd")], "pyetcd": [*MAIN, "server"]}
HOT = b"run/hot"
CREATES_MAX = 100  # on their way in one stream; they fit into the first window
KNOWN_MAX = 10_000  # tails and headers remembered; full: all forgotten
GRACE_S = 0.5  # for events that should not come
WATCH_PATH = b"/etcdserverpb.Watch/Watch"


def own_key(number: int) -> bytes:
    return b"own/%06d" % number


def value_of(write: int) -> bytes:
    return b"%032d" % write


def wanted(number: int) -> tuple[bytes, bytes, bytes]:
    """Key and range_end of a watcher, and the key whose events it gets."""
    turn = number % 10
    if turn < 5:
        return HOT, b"", HOT
    if turn < 7:  # prefixes, shared by many
        prefix = HOT[: 1 + number // 10 % len(HOT)]
        return prefix, prefix_end(prefix), HOT
    if turn < 9:  # ranges that nobody else watches
        return b"run/a%06d" % number, b"run/i%06d" % number, HOT
    return own_key(number), b"", own_key(number)


@dataclass(slots=True)
class Stream:
    """The watchers of one stream, by their ids: what they want, and which revision comes next."""

    numbers: list[int]
    keys: list[bytes] = field(default_factory=list)
    next: list[int] = field(default_factory=list)
    partial: bytearray = field(default_factory=bytearray)


class Run:
    """What all connections share."""

    def __init__(self, watchers: int, writes: int) -> None:
        self.watchers = watchers
        self.writes = writes
        self.first_revision = 0  # of the run
        self.created = 0
        self.events = 0
        self.responses = 0
        self.received_bytes = 0
        self.faults: list[str] = []
        self.progress = asyncio.Event()
        self._tails: dict[bytes, tuple[int, int, bytes]] = {}
        self._headers: dict[bytes, int] = {}

    def fault(self, text: str) -> None:
        if len(self.faults) < 20:
            self.faults.append(text)
        self.progress.set()

    def learn(self, tail: bytes) -> tuple[int, int, bytes] | None:
        """First and last revision and the key of a response's events; None for a created one."""
        found = WatchResponse.FromString(tail)
        if found.canceled or found.fragment or (found.created and found.events):
            self.fault(f"unexpected response {found}")
            return None
        if found.created:
            return None
        first = found.events[0].kv.mod_revision
        for offset, event in enumerate(found.events):
            kv = event.kv
            value = value_of(kv.mod_revision - self.first_revision)
            whole = (event.type, kv.key, kv.mod_revision, kv.value)
            if whole != (0, found.events[0].kv.key, first + offset, value):
                self.fault(f"event {offset} after revision {first} is {whole}")
        if len(self._tails) >= KNOWN_MAX:
            self._tails.clear()
        known = (first, first + len(found.events) - 1, found.events[0].kv.key)
        self._tails[tail] = known
        return known

    def header_revision(self, header: bytes) -> int:
        if len(self._headers) >= KNOWN_MAX:
            self._headers.clear()
        revision = ResponseHeader.FromString(header).revision
        self._headers[header] = revision
        return revision

    def message(self, stream: Stream, data: bytes, at: int, end: int) -> None:
        """One WatchResponse, data[at:end]: field 1 is the header, field 2 the id unless it is 0."""
        size = data[at + 1]
        start = at + 2 + size
        id = 0
        if data[start : start + 1] == b"\x10":
            id = data[start + 1]
            start += 2
            if id >= 0x80:
                id = id & 0x7F | data[start] << 7
                start += 1
        header, tail = data[at + 2 : at + 2 + size], data[start:end]
        known = self._tails.get(tail) or self.learn(tail)
        revision = self._headers.get(header) or self.header_revision(header)
        if known is None:
            self._is_created(stream, id, revision)
            return
        first, last, key = known
        self.responses += 1
        if stream.next[id] != first or stream.keys[id] != key or revision < last:
            wanted = f"{stream.next[id]} of {stream.keys[id]!r}"
            self.fault(f"{first} to {last} of {key!r} at {revision} instead of {wanted}")
        stream.next[id] = last + 1
        self.events += last + 1 - first
        if self.events >= self.watchers * self.writes:
            self.progress.set()

    def _is_created(self, stream: Stream, id: int, revision: int) -> None:
        if id != len(stream.next):
            self.fault(f"watch id {id} instead of {len(stream.next)}")
        stream.next.append(revision + 1)
        if self.first_revision not in (0, revision):
            self.fault(f"created at {revision}, others at {self.first_revision}")
        self.first_revision = revision
        self.created += 1
        if self.created == self.watchers or self.created % CREATES_MAX == 0:
            self.progress.set()


class Connection(asyncio.Protocol):
    """Some streams of watchers, read in raw frames."""

    def __init__(self, run: Run, streams: list[Stream], authority: bytes) -> None:
        self._run = run
        self._authority = authority
        self._streams = {2 * i + 1: stream for i, stream in enumerate(streams)}
        self._tail = b""
        self._window = 65535
        self._unrenewed = 0
        self.is_closing = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        settings = struct.pack(">HIHI", 2, 0, h2.INITIAL_WINDOW_SIZE, h2.WINDOW_MAX)
        widened = struct.pack(">I", h2.WINDOW_MAX - 65535)
        out = [h2.PREFACE, h2.frame(h2.SETTINGS, 0, 0, settings)]
        out.append(h2.frame(h2.WINDOW_UPDATE, 0, 0, widened))
        fields = (b":path", WATCH_PATH), (b":authority", self._authority)
        more = (b"content-type", b"application/grpc"), (b"te", b"trailers")
        block = b"\x83\x86" + b"".join(
            b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value
            for name, value in fields + more
        )
        out += [h2.frame(h2.HEADERS, h2.END_HEADERS, id, block) for id in self._streams]
        self._transport.write(b"".join(out))

    def create(self) -> None:
        """The next watchers of each stream."""
        out = []
        for id, stream in self._streams.items():
            body = bytearray()
            for _ in range(CREATES_MAX):
                if len(stream.keys) == len(stream.numbers):
                    break
                key, range_end, heard = wanted(stream.numbers[len(stream.keys)])
                stream.keys.append(heard)
                request = WatchRequest()
                request.create_request.key, request.create_request.range_end = key, range_end
                message = request.SerializeToString()
                body += b"\x00" + len(message).to_bytes(4, "big") + message
            if body:
                self._window -= len(body)
                out.append(h2.frame(h2.DATA, 0, id, bytes(body)))
        assert self._window >= 0 and self._transport is not None
        self._transport.write(b"".join(out))

    def data_received(self, data: bytes) -> None:
        run = self._run
        self._unrenewed += len(data)
        run.received_bytes += len(data)
        data = self._tail + data if self._tail else data
        at, end = 0, len(data)
        while end - at >= 9:
            after = at + 9 + int.from_bytes(data[at : at + 3], "big")
            if after > end:
                break
            kind = data[at + 3]
            if kind == h2.DATA:
                stream = self._streams[int.from_bytes(data[at + 5 : at + 9], "big")]
                size = int.from_bytes(data[at + 10 : at + 14], "big")
                if not stream.partial and after - at == 14 + size:
                    run.message(stream, data, at + 14, after)
                else:
                    self._part(stream, data[at + 9 : after])
            else:
                self._control(kind, data[at + 4], data[at + 9 : after])
            at = after
        self._tail = data[at:]
        if self._unrenewed > h2.RENEW_BYTES:
            self._write(h2.frame(h2.WINDOW_UPDATE, 0, 0, struct.pack(">I", self._unrenewed)))
            self._unrenewed = 0

    def _part(self, stream: Stream, payload: bytes) -> None:
        """A message in several frames, as after catching up."""
        partial = stream.partial
        partial += payload
        while len(partial) >= 5:
            end = 5 + int.from_bytes(partial[1:5], "big")
            if len(partial) < end:
                return
            self._run.message(stream, bytes(partial[:end]), 5, end)
            del partial[:end]

    def _control(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == h2.SETTINGS and not flags & h2.ACK:
            self._write(h2.frame(h2.SETTINGS, h2.ACK, 0, b""))
        elif kind == h2.PING and not flags & h2.ACK:
            self._write(h2.frame(h2.PING, h2.ACK, 0, payload))
        elif kind == h2.WINDOW_UPDATE:
            self._window += int.from_bytes(payload, "big")  # of streams too: more than enough
        elif kind in (h2.RST_STREAM, h2.GOAWAY) or (kind == h2.HEADERS and flags & h2.END_STREAM):
            self._run.fault(f"a stream ended: frame {kind} {payload[:80]!r}")

    def _write(self, frame: bytes) -> None:
        assert self._transport is not None
        self._transport.write(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.is_closing:
            self._run.fault(f"connection lost: {exc}")

    def close(self) -> None:
        self.is_closing = True
        if self._transport is not None:
            self._transport.abort()


def rss_kib(pid: int, name: str = "VmRSS") -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0])


def cpu_s(pid: int) -> float:
    """Of all its threads, until now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def until(run: Run, done: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not done() and not run.faults:
        run.progress.clear()
        try:
            await asyncio.wait_for(run.progress.wait(), deadline_s - time.monotonic())
        except TimeoutError:
            run.fault(f"{what}: not within {timeout_s:.0f} s")


async def measure(node: Node, arguments: argparse.Namespace) -> tuple[dict[str, float], list[str]]:
    run = Run(arguments.watchers, arguments.writes)
    pid, figures = node.pid, {}
    per = len(range(0, arguments.watchers, arguments.streams))
    streams = [
        Stream(list(range(first, min(first + per, arguments.watchers))))
        for first in range(0, arguments.watchers, per)
    ]
    host, port = node.endpoint.split(":")
    bare_kib = rss_kib(pid)
    loop = asyncio.get_running_loop()
    connections = []
    for number in range(arguments.connections):
        some = streams[number :: arguments.connections]
        made = Connection(run, some, node.endpoint.encode())
        await loop.create_connection(lambda made=made: made, host, int(port))
        connections.append(made)
    writer = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "--write", node.endpoint),
        *(f"--watchers={arguments.watchers}", f"--writes={arguments.writes}"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert writer.stdin is not None and writer.stdout is not None
    try:
        assert await writer.stdout.readline() == b"ready\n"
        await asyncio.sleep(1)
        before_kib = rss_kib(pid)
        begun_s = time.monotonic()
        while run.created < run.watchers and not run.faults:
            for connection in connections:
                connection.create()
            sent = sum(len(stream.keys) for stream in streams)
            await until(run, lambda sent=sent: run.created == sent, arguments.timeout, "creation")
        figures["creation_s"] = time.monotonic() - begun_s
        await asyncio.sleep(1)
        figures["idle_kib"] = (rss_kib(pid) - before_kib) / run.watchers
        figures["whole_kib"] = (rss_kib(pid) - bare_kib) / run.watchers
        begun_s, begun_cpu_s = time.monotonic(), cpu_s(pid)
        writer.stdin.write(b"go\n")
        total = run.watchers * run.writes
        await until(run, lambda: run.events >= total, arguments.timeout, "events")
        figures["run_s"], figures["cpu_s"] = time.monotonic() - begun_s, cpu_s(pid) - begun_cpu_s
        if not run.faults and await writer.stdout.readline() != b"done\n":
            run.fault("the writer failed")
        await asyncio.sleep(GRACE_S)
        figures["rss_peak_mib"] = rss_kib(pid, "VmHWM") / 1024
    finally:
        for connection in connections:
            connection.close()
        if writer.returncode is None:
            writer.terminate()
        await writer.communicate()
    last = run.first_revision + run.writes
    for stream in streams:
        for key, coming in zip(stream.keys, stream.next, strict=True):
            if coming != last + 1:
                run.fault(f"a watcher of {key!r} has everything below {coming}, not {last + 1}")
    figures["events"], figures["responses"] = run.events, run.responses
    figures["received_mib"] = run.received_bytes / 2**20
    return figures, run.faults


def write(endpoint: str, watchers: int, writes: int) -> None:
    """Each write puts every key that anybody watches."""
    keys = [HOT, *sorted({wanted(number)[2] for number in range(watchers)} - {HOT})]
    channel = grpc.insecure_channel(endpoint, [("grpc.enable_http_proxy", 0)])
    channel.unary_unary("/etcdserverpb.KV/Range")(RangeRequest(key=b"a").SerializeToString())
    txn = channel.unary_unary("/etcdserverpb.KV/Txn")
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(1, writes + 1):
        request, value = TxnRequest(), value_of(number)
        for key in keys:
            put: PutRequest = request.success.add().request_put
            put.key, put.value = key, value
        txn(request.SerializeToString(), timeout=60)
    print("done", flush=True)
    answer = channel.unary_unary("/etcdserverpb.KV/Range")(
        RangeRequest(key=HOT).SerializeToString()
    )
    assert RangeResponse.FromString(answer).kvs[0].version == writes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", action="append", choices=SERVERS)
    parser.add_argument("--watchers", type=int, default=10_000)
    parser.add_argument("--writes", type=int, default=1_000)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--connections", type=int, default=20)
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds")
    parser.add_argument("--folder", type=Path, default=Path(), help="where servers keep their data")
    parser.add_argument("--write", metavar="ENDPOINT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        write(arguments.write, arguments.watchers, arguments.writes)
        return 0
    failed = False
    for program in arguments.program or list(SERVERS):
        folder = tempfile.mkdtemp(dir=arguments.folder)
        node = Node([*SERVERS[program], f"--max-txn-ops={arguments.watchers}"], folder)
        try:
            found, faults = asyncio.run(measure(node, arguments))
        finally:
            node.stop()
            shutil.rmtree(folder)
        for fault in faults:
            print(f"VIOLATION {program}: {fault}")
        failed |= bool(faults)
        print(
            f"{program}: {arguments.watchers:,} watchers created in {found['creation_s']:.2f} s, "
            f"{found['idle_kib']:.2f} KiB resident for each, {found['whole_kib']:.2f} with streams "
            f"and connections; {found['events']:,.0f} events in {found['responses']:,.0f} "
            f"responses, {found['received_mib']:,.0f} MiB, in {found['run_s']:.1f} s: "
            f"{found['events'] / found['run_s']:,.0f} a second, "
            f"{found['cpu_s'] * 1e6 / found['events']:.1f} us of CPU for each; "
            f"{found['rss_peak_mib']:.0f} MiB resident at most",
            flush=True,
        )
    return failed


if __name__ == "__main__":
    sys.exit(main())
