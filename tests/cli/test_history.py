"""`history` against the real etcd and against pyetcd."""

import base64
import json
import random
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import grpc
import pytest
import yaml
from ports import free_ports

from pyetcd.cli import client as calls
from pyetcd.cli.client import Client, Settings
from pyetcd.cli.ctl.run import run
from pyetcd.proto import kv_pb2 as kv
from pyetcd.proto import rpc_pb2 as rpc

PROGRAM = [sys.executable, "-m", "pyetcd.cli.main", "ctl"]


class Change(NamedTuple):
    """A line of the history, as the twin notes it down."""

    revision: int
    kind: str
    key: str
    create_revision: int = 0
    version: int = 0
    value: str = ""


def parsed(said: str) -> list[Change]:
    """The lines of the simple format."""
    rows = []
    for line in said.splitlines():
        found = dict(word.split("=", 1) for word in line.split(" "))
        numbers = (int(found.get("create_revision", 0)), int(found.get("version", 0)))
        key, value = (json.loads(found.get(name, '""')) for name in ("key", "value"))
        rows.append(Change(int(found["revision"]), found["type"], key, *numbers, value))
    return rows


class Twin:
    """Keeps every change that it makes."""

    def __init__(self, node: Any, seed: int) -> None:
        self._node = node
        self._chance = random.Random(seed)
        node.said("del", "", "--prefix")
        self.revision = node.revision()
        self.changes: list[Change] = []
        self._present: dict[str, Change] = {}

    def change(self, times: int) -> None:
        for _ in range(times):
            lines = []
            for number in sorted(self._chance.sample(range(4), self._chance.randint(1, 2))):
                lines += self._change(f"k{number}")
            if lines:
                self.revision += 1
                self._node.said("txn", stdin=("\n" + "\n".join(lines) + "\n\n\n").encode())
        assert self.revision == self._node.revision()

    def _change(self, key: str) -> list[str]:
        old = self._present.get(key)
        if self._chance.random() < 0.4:
            if old is None:
                return []
            del self._present[key]
            self.changes.append(Change(self.revision + 1, "DELETE", key))
            return [f"del {key}"]
        value = self._chance.choice("abc")
        create = old.create_revision if old else self.revision + 1
        version = old.version + 1 if old else 1
        self._present[key] = Change(self.revision + 1, "PUT", key, create, version, value)
        self.changes.append(self._present[key])
        return [f"put {key} {value}"]

    def expected(self, key: str, compact_revision: int) -> list[Change]:
        """What is left of one key."""
        rows = [row for row in self.changes if row.key == key]
        base = [row for row in rows if row.revision <= compact_revision][-1:]
        base = [row for row in base if row.kind == "PUT"]
        return base + [row for row in rows if row.revision > compact_revision]


def note(compact_revision: int) -> bytes:
    return f"compacted revision {compact_revision}: earlier changes are gone\n".encode()


def test_random_changes(node):
    twin = Twin(node, 1)
    for _ in range(2):
        start = twin.revision
        twin.change(12)
        compacted = node("compaction", str(start + 3))
        assert compacted[2] == 0
        # A tombstone exactly at the compact revision is kept by some servers.
        for key in ("k0", "k1", "never"):
            out, err, code = node("history", key)
            assert (err, code) == (note(start + 3), 0)
            rows = [
                row
                for row in parsed(out.decode())
                if (row.kind, row.revision) != ("DELETE", start + 3)
            ]
            assert rows == twin.expected(key, start + 3), key
        out, err, code = node("history", "k", "--prefix")
        rows = [
            row for row in parsed(out.decode()) if (row.kind, row.revision) != ("DELETE", start + 3)
        ]
        expected = [row for number in range(4) for row in twin.expected(f"k{number}", start + 3)]
        assert sorted(rows) == sorted(expected)
        later = [row.revision for row in rows if row.revision > start + 3]
        assert later == sorted(later)


@pytest.fixture
def changed(node):
    """The revision before, to which is compacted; then k: put, put, delete, put; other: put,
    delete."""
    node.said("del", "", "--prefix")
    node.said("put", "first", "x")
    start = node.revision()
    node("compaction", str(start))
    for line in ("put k 1", "put k 2", "del k", "put k 3", "put other x", "del other"):
        node.said(*line.split())
    return node, start


def lines_of(start: int) -> list[str]:
    put = 'revision={} type=PUT key="k" create_revision={} version={} lease=0 value="{}"\n'
    return [
        put.format(start + 1, start + 1, 1, 1),
        put.format(start + 2, start + 1, 2, 2),
        f'revision={start + 3} type=DELETE key="k"\n',
        put.format(start + 4, start + 4, 1, 3),
    ]


def test_text_and_its_order(changed):
    node, start = changed
    lines = lines_of(start)

    def said(*flags: str) -> str:
        out, err, code = node("history", "k", *flags)
        assert (err, code) == (note(start), 0)
        return out.decode()

    assert said() == "".join(lines)
    assert said("--limit=2") == "".join(lines[2:])
    assert said("--limit=9") == "".join(lines)
    assert said("--newest-first") == "".join(reversed(lines))
    assert said("--newest-first", "--limit=1") == lines[3]


def test_rows(changed):
    node, start = changed
    out, err, code = node("history", "other", "-w", "json")
    found = json.loads(out)
    assert (err, code, list(found)) == (b"", 0, ["compact_revision", "revision", "events"])
    assert (found["compact_revision"], found["revision"]) == (start, start + 6)
    put, delete = found["events"]
    assert (put["type"], base64.b64decode(put["kv"]["value"])) == ("PUT", b"x")
    assert (delete["type"], delete["kv"]["mod_revision"]) == ("DELETE", start + 6)
    assert out.count(b"\n") == 4
    shown = yaml.safe_load(node.said("history", "other", "-w", "yaml"))
    assert shown == json.loads(node.said("history", "other", "--decode"))
    for format in ("json", "yaml"):
        empty = yaml.safe_load(node.said("history", "never", "-w", format))
        assert empty == {"compact_revision": start, "revision": start + 6, "events": []}


def test_bytes_and_leases(changed):
    node, start = changed
    lease = node.said("lease", "grant", "1000").split()[1]
    node.said("put", f"--lease={lease}", "--", "\udcff\n", stdin=b"\x00\xfe")
    out, _, _ = node("history", "--", "\udcff\n")
    assert out.decode() == (
        f'revision={start + 7} type=PUT key="\\xff\\n" create_revision={start + 7} version=1'
        f' lease={lease.lstrip("0")} value="\\x00\\xfe"\n'
    )
    node.said("lease", "revoke", lease)
    out, _, _ = node("history", "--", "\udcff\n")
    assert out.decode().splitlines()[1] == f'revision={start + 8} type=DELETE key="\\xff\\n"'
    [put, delete] = yaml.safe_load(node.said("history", "-w", "yaml", "--", "\udcff\n"))["events"]
    assert (put["kv"]["key"], put["kv"]["value"]) == (b"\xff\n", b"\x00\xfe")
    assert delete["type"] == "DELETE"


def test_unchanged_since_a_compaction(changed):
    node, start = changed
    node.said("put", "other", "y")
    node("compaction", str(start + 7))
    assert node("history", "k") == (lines_of(start)[3].encode(), note(start + 7), 0)


def test_more_than_a_batch(node):
    """etcd sends the past of a watch in batches of 1,000 revisions."""
    start = node.revision()
    settings = Settings([node.endpoint], 2.0, 2000, 6000)
    client = Client(settings.endpoints, settings, warn=print)
    try:
        for number in range(1100):
            request = rpc.PutRequest(key=b"often", value=b"%d" % number)
            client.call(calls.PUT, request, timeout_s=30)
        client.call(calls.DELETE_RANGE, rpc.DeleteRangeRequest(key=b"often"), timeout_s=30)
    finally:
        client.close()
    out, _, code = node("history", "often")
    rows = parsed(out.decode())
    assert (code, len(rows)) == (0, 1101)
    assert [row.value for row in rows[:-1]] == [str(number) for number in range(1100)]
    assert rows[-1] == Change(start + 1101, "DELETE", "often")


def test_wrong_arguments(node):
    text = b"Error: history command needs one argument as key\n"
    assert node("history") == node("history", "a", "b") == (b"", text, 128)
    assert node("history", "a", "--limit=-1") == (
        b"",
        b"Error: --limit must not be negative\n",
        128,
    )
    assert node("history", "a", "--limit=x")[2] == 1
    for format in ("table", "fields", "protobuf"):
        text = f"Error: {format} not supported as output format\n".encode()
        assert node("history", "a", "-w", format) == (b"", text, 4)
    out, err, code = node("history", "")
    assert (out, code) == (b"", 1) and err.endswith(b"Error: etcdserver: key is not provided\n")


def test_closed_pipe(changed):
    node, start = changed
    command = f"{' '.join(PROGRAM)} --endpoints={node.endpoint} history k | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, check=True)
    assert done.stdout.decode() == lines_of(start)[0]
    assert done.stderr == note(start)


@pytest.fixture(scope="module", params=("etcd", "pyetcd"))
def lone(request, tmp_path_factory, machine_type):
    """A server that never compacted, with a user who may read one key."""
    machine = machine_type(tmp_path_factory.mktemp("lone"))
    try:
        server = machine.single(request.param)
        start = [f"--endpoints={server.endpoint}"]
        assert run([*start, "history", "a"]) == (b"", b"", 0)  # nothing was ever written
        for line in (
            "put b 1",
            "del b",
            "user add root:r",
            "user grant-role root root",
            "user add u:p",
            "role add r",
            "user grant-role u r",
            "role grant-permission r read a",
        ):
            run([*start, *line.split()])
        yield start
    finally:
        machine.close()


def test_whole_history_of_who_may_read_little(lone):
    """No compact revision, no key that is left, and then not even the right to look for one."""
    gone = b'revision=2 type=PUT key="b" create_revision=2 version=1 lease=0 value="1"\n'
    gone += b'revision=3 type=DELETE key="b"\n'
    assert run([*lone, "history", "b"]) == (gone, b"", 0)
    assert run([*lone, "history", "a"]) == (b"", b"", 0)
    for line in ("put a 1", "del a", "put a 2", "del a", "auth enable"):
        assert run([*lone, *line.split()])[2] == 0
    out, err, code = run([*lone, "--user=u:p", "history", "a"])
    assert (len(out.splitlines()), err, code) == (4, b"", 0)
    out, err, code = run([*lone, "--user=u:p", "history", "b"])
    assert (out, code) == (b"", 1)
    assert err.endswith(b"Error: etcdserver: permission denied\n")


class Slow:
    """An etcd that answers questions for progress while the events of a watch are still to come,
    and shows no key to whom it could be marked with."""

    def __init__(self, answers: int) -> None:
        self.answers = answers  # before the events

    def range(self, request: rpc.RangeRequest, context: Any) -> rpc.RangeResponse:
        if request.key != b"a":
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "etcdserver: permission denied")
        return rpc.RangeResponse(header=HEADER)

    def watch(self, requests: Any, context: Any) -> Any:
        asked = 0
        for request in requests:
            if request.HasField("create_request"):
                if asked:  # a mark, made of one of the events
                    yield rpc.WatchResponse(header=HEADER, watch_id=asked, created=True)
                    yield rpc.WatchResponse(header=HEADER, watch_id=asked, events=EVENTS[-1:])
                else:
                    yield rpc.WatchResponse(header=HEADER, watch_id=0, created=True)
            elif request.HasField("progress_request"):
                asked += 1
                yield rpc.WatchResponse(header=HEADER, watch_id=-1)
                if asked == self.answers:
                    yield rpc.WatchResponse(header=HEADER, watch_id=0, events=EVENTS)


HEADER = rpc.ResponseHeader(revision=3)
EVENTS = [
    kv.Event(kv=kv.KeyValue(key=b"a", mod_revision=2, create_revision=2, version=1)),
    kv.Event(type=kv.Event.DELETE, kv=kv.KeyValue(key=b"a", mod_revision=3)),
]


def test_no_mark_and_a_server_that_takes_its_time():
    fake = Slow(answers=6)
    handlers = {
        "/etcdserverpb.KV/Range": grpc.unary_unary_rpc_method_handler(
            fake.range, rpc.RangeRequest.FromString, lambda answer: answer.SerializeToString()
        ),
        "/etcdserverpb.Watch/Watch": grpc.stream_stream_rpc_method_handler(
            fake.watch, rpc.WatchRequest.FromString, lambda answer: answer.SerializeToString()
        ),
    }

    class Router(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            return handlers.get(details.method)

    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((Router(),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            out, err, code = run([f"--endpoints=127.0.0.1:{port}", "history", "a"])
        finally:
            server.stop(None).wait()
    assert (len(out.splitlines()), err, code) == (2, b"", 0)


def test_through_a_proxy(node, machine_type, tmp_path, wait_until):
    """etcd's proxy gives watches other ids and says nothing of progress."""
    machine = machine_type(tmp_path)
    try:
        [port] = free_ports(1)
        argv = [machine.etcd, "grpc-proxy", "start", f"--listen-addr=127.0.0.1:{port}"]
        argv += [f"--endpoints={node.endpoint}", f"--data-dir={tmp_path / 'proxy'}"]
        proxy = machine.process(argv, name="proxy", client_port=port).start()
        argv = [f"--endpoints={proxy.endpoint}", "history", "p"]
        for line in ("put p 1", "put p 2"):
            node.said(*line.split())
        wait_until(lambda: run(argv)[2] == 0, "the proxy")
        for lines in (2, 3):
            out, err, code = run(argv)
            assert (out, err, code) == node("history", "p")
            assert out.count(b"\n") == lines
            node.said("del", "p")
    finally:
        machine.close()


def test_interrupted():
    """A server that takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = f"--endpoints=127.0.0.1:{listener.getsockname()[1]}"
        pipe = subprocess.PIPE
        argv = [*PROGRAM, endpoint, "history", "k"]
        with subprocess.Popen(argv, stdout=pipe, stderr=pipe) as process:
            connection, _ = listener.accept()
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=30) == (b"", b"")
            assert process.returncode == -signal.SIGINT
            connection.close()
