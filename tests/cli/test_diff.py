"""`diff` against the real etcd and against pyetcd."""

import base64
import json
import random
import tracemalloc
from typing import Any

import pytest
import yaml

from pyetcd.cli.ctl import diff as command
from pyetcd.cli.ctl import pages
from pyetcd.proto import kv_pb2 as kv
from pyetcd.proto import rpc_pb2 as rpc

Pairs = dict[str, str]


@pytest.fixture(scope="module")
def states(node):
    """Revisions and what there was then: random puts and deletes, some in one transaction."""
    chance = random.Random(5)
    node.said("del", "", "--prefix")
    node.said("put", "/other", "x")
    found: dict[int, Pairs] = {node.revision(): {}}
    present: Pairs = {}
    for _ in range(40):
        keys = chance.sample(range(12), chance.randint(1, 4))
        lines = []
        for number in keys:
            key = f"k{number:02}"
            if chance.random() < 0.4:
                present.pop(key, None)
                lines.append(f"del {key}")
            else:
                present[key] = chance.choice("abc")
                lines.append(f"put {key} {present[key]}")
        node.said("txn", stdin=("\n" + "\n".join(lines) + "\n\n\n").encode())
        found[node.revision()] = dict(present)
    return found


def expected(before: Pairs, after: Pairs) -> list[tuple[str, str, Any, Any]]:
    rows = []
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if old != new:
            kind = "added" if old is None else "deleted" if new is None else "changed"
            rows.append((kind, key, old, new))
    return rows


def rows_of(found: dict[str, Any]) -> list[tuple[str, str, Any, Any]]:
    rows = []
    for row in found["changes"]:
        old, new = row.get("old", {}), row.get("new", {})
        rows.append((row["type"], (new or old)["key"], old.get("value"), new.get("value")))
    return rows


@pytest.mark.parametrize("page", (1, 3, 1000))
def test_any_two_revisions(node, states, monkeypatch, page):
    monkeypatch.setattr(pages, "PAGE_KEYS", page)
    monkeypatch.setattr(command, "BATCH_KEYS", page)
    chance = random.Random(page)
    for _ in range(8):
        first, last = chance.sample(sorted(states), 2)
        argv = ("diff", str(first), str(last), "k", "--decode", "-w", chance.choice(FORMATS))
        found = yaml.safe_load(node.said(*argv))
        assert (found["from"], found["to"]) == (first, last)
        assert rows_of(found) == expected(states[first], states[last]), (first, last)


FORMATS = ("json", "yaml")


@pytest.fixture
def fresh(node):
    """No keys, and the revision."""
    node.said("del", "", "--prefix")
    return node, node.revision()


def test_text(fresh):
    node, before = fresh
    node.said("put", "a", "1")
    node.said("put", "gone", "x")
    node.said("put", "--", "bin\udcff", "\udcff")
    node.said("put", "text", stdin=b"one\ntwo\nthree\n")
    middle = node.revision()
    node.said("put", "a", "2")
    node.said("del", "gone")
    node.said("put", "--", "bin\udcff", "\udcfe\n\n")
    node.said("put", "text", stdin=b"one\nTWO\nthree\n")
    lease = node.said("lease", "grant", "1000").split()[1]
    node.said("put", "leased", "x", f"--lease={lease}")
    after = node.revision()
    added = '+"a" = "1"\n+"bin\\xff" = "\\xff"\n+"gone" = "x"\n+"text" = "one\\ntwo\\nthree\\n"\n'
    head = f"--- revision {before}\n+++ revision {middle}\n"
    assert node.said("diff", str(before), str(middle)) == head + added
    head = f"--- revision {middle}\n+++ revision {before}\n"
    assert node.said("diff", str(middle), str(before)) == head + added.replace("+", "-")
    assert node.said("diff", str(middle), "0") == (
        f"--- revision {middle}\n+++ revision {after}\n"
        '-"a" = "1"\n+"a" = "2"\n'
        '-"bin\\xff" = "\\xff"\n+"bin\\xff" = "\\xfe\\n\\n"\n'
        '-"gone" = "x"\n'
        f'+"leased" = "x" lease={lease.lstrip("0")}\n'
        '@@ "text" -1,4 +1,4 @@\n one\n-two\n+TWO\n three\n \n'
    )
    head = f"--- revision {middle}\n+++ revision {after}\n"
    assert node.said("diff", str(middle), "0", "go") == head + '-"gone" = "x"\n'


def test_written_again_is_the_same(fresh):
    node, _ = fresh
    node.said("put", "a", "1")
    node.said("put", "b", "1")
    before = node.revision()
    node.said("put", "a", "1")
    node.said("del", "b")
    node.said("put", "b", "1")
    assert node.said("diff", str(before), "0") == ""
    shown = json.loads(node.said("diff", str(before), "0", "-w", "json"))
    assert shown == {"from": before, "to": node.revision(), "changes": []}
    assert yaml.safe_load(node.said("diff", str(before), "0", "-w", "yaml")) == shown
    lease = node.said("lease", "grant", "1000").split()[1]
    node.said("put", "a", "1", f"--lease={lease}")
    assert node.said("diff", str(before), "0").count("\n") == 4


def test_json_has_base64_as_elsewhere(fresh):
    node, before = fresh
    node.said("put", "--", "\udcff", "v")
    said = node.said("diff", str(before), "0", "-w", "json")
    assert said.count("\n") == 3 and said.endswith("\n]}\n")
    [row] = json.loads(said)["changes"]
    assert base64.b64decode(row["new"]["key"]) == b"\xff"
    [row] = json.loads(node.said("diff", str(before), "0", "--decode"))["changes"]
    assert row["new"]["key_base64"] == "/w==" and row["new"]["value"] == "v"


def test_what_is_compacted_or_to_come(fresh):
    node, before = fresh
    node.said("put", "a", "1")
    now = node.revision()
    node.said("compaction", str(now))
    for first, last, reason in (
        (before, now, "compacted"),
        (now, before, "compacted"),
        (now, now + 1000, "a future revision"),
    ):
        for format in ("simple", "json", "yaml"):
            out, err, code = node("diff", str(first), str(last), "-w", format)
            assert (out, code) == (b"", 1)
            assert err.endswith(b"\n") and reason in err.decode().splitlines()[-1]


def test_wrong_arguments(node):
    text = b"Error: diff command needs two revisions and an optional argument as prefix\n"
    for argv in ((), ("1",), ("1", "2", "3", "4")):
        assert node("diff", *argv) == (b"", text, 128)
    text = (
        b'Error: bad revision (strconv.ParseInt: parsing "x": invalid syntax), expecting a number\n'
    )
    assert node("diff", "1", "x") == (b"", text, 128)
    text = b"Error: bad revision (-1), expecting no negative number\n"
    assert node("diff", "--", "-1", "2") == (b"", text, 128)
    for format in ("table", "fields", "protobuf"):
        text = f"Error: {format} not supported as output format\n".encode()
        assert node("diff", "1", "2", "-w", format) == (b"", text, 4)


def test_pages_are_as_large_as_their_memory_may_be(monkeypatch):
    """Small keys and large values."""
    monkeypatch.setattr(pages, "PAGE_BYTES", 10_000)
    asked: list[int] = []

    class Server:
        def range(self, request: rpc.RangeRequest) -> rpc.RangeResponse:
            asked.append(request.limit)
            pair = kv.KeyValue(key=b"k%d" % len(asked), value=b"x" * (1000 * len(asked)))
            return rpc.RangeResponse(kvs=[pair], more=len(asked) < 4)

    server: Any = Server()
    assert len(list(pages.Walk(server, b"k", b"l", 5, keys_only=False))) == 4
    assert asked == [16, 9, 4, 3]


class Endless:
    """In the place of a server: very many keys of which one in a thousand differs."""

    def __init__(self, keys: int) -> None:
        self._keys = keys
        self.requests = 0

    def range(self, request: rpc.RangeRequest) -> rpc.RangeResponse:
        self.requests += 1
        first = int(request.key.rstrip(b"\0")[1:] or 0) + request.key.endswith(b"\0")
        after = min(first + request.limit, self._keys)
        rows = [kv.KeyValue(key=b"k%07d" % at, mod_revision=self._changed(at, request.revision))
                for at in range(first, after)]  # fmt: skip
        return rpc.RangeResponse(kvs=rows, more=after < self._keys)

    def _changed(self, at: int, revision: int) -> int:
        return revision if at % 1000 == 7 else 1

    def call(self, method: Any, request: rpc.TxnRequest) -> rpc.TxnResponse:
        self.requests += 1
        answer = rpc.TxnResponse()
        for part in request.success:
            wanted = part.request_range
            pair = kv.KeyValue(key=wanted.key, value=b"%d" % wanted.revision)
            answer.responses.add().response_range.kvs.append(pair)
        return answer


def test_memory_and_requests_are_bounded(monkeypatch):
    """10,000 keys on either side: a page of each is in memory, values only where they differ."""
    monkeypatch.setattr(pages, "PAGE_KEYS", 500)
    server: Any = Endless(10_000)
    walks = [pages.Walk(server, b"k", b"l", at, keys_only=True) for at in (5, 9)]
    tracemalloc.start()
    count = sum(1 for _ in command._with_values(server, command._differing(*walks), 5, 9))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 10
    assert server.requests == 2 * (1 + 20) + 1  # the first pages are small
    assert peak_bytes < 1 << 20
