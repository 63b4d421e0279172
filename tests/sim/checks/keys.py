"""v2: what the v2 API answers over HTTP is the model's, and what it acknowledged is in the log."""

import json
from datetime import UTC, datetime
from typing import Any

from sim.checks.log import History, Operation
from sim.checks.violation import Violation
from sim.v2_model import ROOT, STATUS, Happened, Result, Shown, read

RAFT = 300  # an error that says only that it did not work out here
CLEARED = 401  # the history does not reach back so far
HISTORY = 1000  # it holds so many events


def check_keys(history: History, op: Operation) -> Result | None:
    """What it was answered; None if it did not work out."""
    status, headers, body = op.answer
    found = json.loads(body)
    if found.get("errorCode") == RAFT:
        _failed(history, op, found.get("cause", ""))
        return None
    result = result_of(found, int(headers["X-Etcd-Index"]))
    request = op.request
    if request.is_local:
        expected = read(
            *history.model.v2.at(op.answered_index), request.path, recursive=request.recursive
        )
    else:
        index = history.index_by_id.get(op.request_id)
        if index is None:
            raise Violation("v2", f"{op} was answered, but no member has applied it")
        if index <= op.floor_index:
            raise Violation("v2", f"{op} is entry {index}: before it began")
        history.acknowledged_index = max(history.acknowledged_index, index)
        known = history.result_by_index[index]
        assert known is not None
        expected = known
    if _outside(expected) != result:
        raise Violation("v2", f"{op} got {result}, the model says {_outside(expected)}")
    if status != _status(expected):
        raise Violation("v2", f"{op} has status {status}, not {_status(expected)}")
    if request.is_sorted and not _is_sorted(found.get("node", {})):
        raise Violation("v2", f"{op} is not sorted")
    return result


def check_poll(history: History, op: Operation) -> int:
    """An answer that has waited for an event: the first one of its path from an index on. The index
    of the event; 0 for none."""
    status, headers, body = op.answer
    if not body:
        return 0  # the client has left
    found, model, asked = json.loads(body), history.model.v2, op.request
    shown = int(headers["X-Etcd-Index"])
    since = int(asked.fields.get("waitIndex", shown + 1))
    if "errorCode" in found:
        if found["errorCode"] != CLEARED or since > shown - HISTORY:
            raise Violation("v2", f"{op}: {found}")
        return 0
    result = result_of(found, shown)
    index: int = result[2][4]
    event = model.events.get(index)
    if event is None or status != 200:
        raise Violation("v2", f"{op} is told {found}: {event}")
    expected = ("v2", event.action, event.node, event.prev, shown)
    if index < since or result != _outside(expected) or not _concerns(asked, event, strict=False):
        raise Violation("v2", f"{op} is told {result}, not {expected}")
    for missed in range(since, index):
        before = model.events.get(missed)
        if before is not None and _concerns(asked, before, strict=True):
            raise Violation("v2", f"{op} is told of {index}, not of {before}")
    return index


def _concerns(asked: Any, event: Happened, *, strict: bool) -> bool:
    """Whether a watch of a path is told of it. Not `strict`: or may be, for two rules differ
    between what has been and what comes: names with an underscore, and directories that go."""
    key, path = event.node[0], asked.path
    if event.is_refresh:
        return False
    if key == path:
        return True
    is_below = key.startswith(path + "/")
    if asked.recursive and is_below and ("/_" not in key or not strict):
        return True
    is_gone = event.action in ("delete", "expire") and event.node[2]
    return not strict and is_gone and path.startswith(key)


def _failed(history: History, op: Operation, cause: str) -> None:
    index = history.index_by_id.get(op.request_id) if op.request_id else None
    expected = None if index is None else history.result_by_index[index]
    if "Not a file" in cause and expected != ("error", cause):
        raise Violation("v2", f"{op} failed, entry {index} says {expected}")


def _status(expected: Result) -> int:
    if expected[0] == "v2error":
        return STATUS.get(expected[1], 400)
    _, action, _, prev, _ = expected
    return 201 if action == "create" or (action == "set" and prev is None) else 200


def _outside(expected: Result) -> Result:
    """Without the place that clients' keys have in the tree."""
    if expected[0] == "v2error":
        kind, number, cause, index = expected
        return (kind, number, cause.removeprefix(ROOT), index)
    if expected[0] == "error":
        return expected
    kind, action, node, prev, index = expected
    return (kind, action, _bare(node), None if prev is None else _bare(prev), index)


def _bare(shown: Shown) -> Shown:
    return (shown[0].removeprefix(ROOT), *shown[1:6], tuple(sorted(map(_bare, shown[6]))))


def result_of(found: Any, index: int) -> Result:
    if "errorCode" in found:
        if found["index"] != index:
            raise Violation("v2", f"{found} with the index {index}")
        return ("v2error", found["errorCode"], found.get("cause", ""), index)
    prev = found.get("prevNode")
    return ("v2", found["action"], _shown(found["node"]), prev and _shown(prev), index)


def _shown(node: Any) -> Shown:
    expiration_ns = _ns(node["expiration"]) if "expiration" in node else 0
    children = tuple(sorted(map(_shown, node.get("nodes", ()))))
    return (node.get("key", ""), node.get("value"), node.get("dir", False), expiration_ns,
            node.get("modifiedIndex", 0), node.get("createdIndex", 0), children)  # fmt: skip


def _ns(text: str) -> int:
    seconds, _, fraction = text.removesuffix("Z").partition(".")
    moment = datetime.fromisoformat(seconds).replace(tzinfo=UTC)
    return int(moment.timestamp()) * 10**9 + int(fraction.ljust(9, "0") or 0)


def _is_sorted(node: Any) -> bool:
    below = node.get("nodes", ())
    keys = [child["key"] for child in below]
    return keys == sorted(keys) and all(map(_is_sorted, below))
