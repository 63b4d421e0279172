"""The log, and what clients are told of it.

- log        one entry an index for ever, each request at most once, in every member and run
- apply      every member answers every entry alike, and as the model does
- answers    a client's answer is that of its entry, and entries follow real time (strict
             serializability: the log is the order, so no search is needed)
- reads      a linearizable read is not older than anything applied when it was asked, and it and
             a serializable one show a state that was
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sim.checks.violation import Violation
from sim.model import COMPACTED, FUTURE, Model, Result, kv_of, result_of
from sim.v2_model import result_of_error

from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest
from pyetcd.raft.types import Entry, EntryType
from pyetcd.server.replica import decode_change
from pyetcd.store.apply import Applied
from pyetcd.store.v2event import Event


@dataclass
class Operation:
    """One call of a client, with what was known when it began."""

    client: str
    kind: str
    request: Any
    began_s: float
    floor_index: int  # the newest entry that anybody had applied
    floor_revision: int
    member: str = ""
    floor_compacted: int = -1  # the compaction that somebody had applied
    request_id: int = 0
    # Where there are users: who asks, and what the member had applied.
    token: str = ""
    common_name: str = ""
    served_index: int = 0  # when it was asked
    answered_index: int = 0  # when it answered
    tokens_since: int = 0  # it knows no token that is older
    ended_s: float = 0.0
    answer: Any = None  # a response, or (code, text)


class History:
    """The committed log as the members show it, checked against the model as it grows."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.entries: dict[int, tuple[int, EntryType, bytes]] = {}
        self.last_index = 0
        self.acknowledged_index = 0
        self.index_by_id: dict[int, int] = {}
        self.result_by_index: dict[int, Result | None] = {}
        self.answer_by_index: dict[int, bytes] = {}
        self.revision_by_index: dict[int, int] = {}
        self.refused: dict[int, None] = {}  # entries that ask for a wrong change of the members
        self.on_apply: Callable[[int, Any], None] = lambda index, request: None

    def applied(self, who: str, entry: Entry, applied: Applied) -> None:
        index = entry.index
        found = (entry.term, entry.type, entry.data)
        known = self.entries.get(index)
        if known is None:
            if index != self.last_index + 1:
                raise Violation("log", f"{who} applied {index}, nobody {self.last_index + 1}")
            is_change = entry.type is not EntryType.NORMAL
            self._commit(index, found, is_refused=is_change and applied.error is not None)
        elif known != found:
            raise Violation(
                "log",
                f"{who} applied another entry at {index}: term {found[0]} {found[2][:60]!r},"
                f" committed was term {known[0]} {known[2][:60]!r}",
            )
        self._compare(who, index, applied)

    def _commit(
        self, index: int, found: tuple[int, EntryType, bytes], *, is_refused: bool = False
    ) -> None:
        self.entries[index] = found
        self.last_index = index
        term, kind, data = found
        result: Result | None = None
        if kind is EntryType.NORMAL and data:
            request = InternalRaftRequest.FromString(data)
            id = request.header.ID
            if id in self.index_by_id:
                raise Violation(
                    "log", f"request {id:x} at {index} is also at {self.index_by_id[id]}"
                )
            self.index_by_id[id] = index
            result = self.model.apply(request, index)
            self.on_apply(index, request)
        elif is_refused:
            self.refused[index] = None
        elif kind is not EntryType.NORMAL:
            change = decode_change(Entry(term, index, kind, data))
            self.model.member_changed(change.type, change.node_id, index)
        self.result_by_index[index] = result
        self.revision_by_index[index] = self.model.revision

    def _compare(self, who: str, index: int, applied: Applied) -> None:
        answer = applied.answer
        if applied.over_quota:
            return  # it was applied; what its proposer is told depends on the size of his file
        if applied.error is not None:
            shown = repr(result_of_error(applied.error)).encode()
        elif isinstance(answer, Event):
            shown = repr(result_of(answer)).encode()
        else:
            shown = b"" if answer is None else answer.SerializeToString(deterministic=True)
        if self.answer_by_index.setdefault(index, shown) != shown:
            raise Violation(
                "apply",
                f"{who} answers {index} with {shown!r}, not {self.answer_by_index[index]!r}",
            )
        expected = self.result_by_index[index]
        if expected is None:
            return
        found = result_of_error(applied.error) if applied.error else result_of(answer)
        if found != expected:
            raise Violation("apply", f"{who} answers {index} with {found}, the model {expected}")

    # Clients

    def answered(self, op: Operation) -> None:
        if isinstance(op.answer, tuple):
            return self._failed(op)
        if op.kind == "range":
            return self._read(op)
        if op.kind == "txn" and not op.request_id:
            return self._read_txn(op)
        index = self.index_by_id.get(op.request_id)
        if index is None:
            raise Violation("answers", f"{op} was answered, but no member has applied it")
        if index <= op.floor_index:
            raise Violation("answers", f"{op} is entry {index}: before it began")
        self.acknowledged_index = max(self.acknowledged_index, index)
        found, expected = result_of(op.answer), self.result_by_index[index]
        if found != expected:
            raise Violation("answers", f"{op} got {found}, entry {index} says {expected}")
        return None

    def _failed(self, op: Operation) -> None:
        _, text = op.answer
        index = self.index_by_id.get(op.request_id) if op.request_id else None
        if op.kind == "range":
            revision = op.request.revision
            if text == COMPACTED[1] and not 0 < revision < self.model.compacted:
                raise Violation("reads", f"{op}: {text}, but {self.model.compacted} is compacted")
            if text == FUTURE[1] and not op.request.serializable and revision <= op.floor_revision:
                raise Violation("reads", f"{op}: {text}, but {op.floor_revision} was there")
        elif index is not None:
            expected = self.result_by_index[index]
            definite = expected is not None and expected[0] == "error"
            if (
                definite
                and "timed out" not in text
                and "deadline" not in text
                and ("leader" not in text and "stopped" not in text)
                and text != expected[1]
            ):  # type: ignore[index]
                raise Violation("answers", f"{op} failed with {text}, entry says {expected}")

    def never_committed(self, op: Operation) -> None:
        if op.request_id in self.index_by_id:
            raise Violation("answers", f"{op} was said never to commit, and did")

    def _read_txn(self, op: Operation) -> None:
        shown = op.answer.header.revision
        if not op.floor_revision <= shown <= self.model.revision:
            raise Violation("reads", f"{op} is stale: revision {shown} < {op.floor_revision}")
        expected = self.model.read_txn(op.request, shown)
        if result_of(op.answer) != expected:
            raise Violation("reads", f"{op}, the model {expected}")

    def _read(self, op: Operation) -> None:
        request, answer, model = op.request, op.answer, self.model
        shown = answer.header.revision
        if shown > model.revision:
            raise Violation("reads", f"{op} shows revision {shown}, the newest is {model.revision}")
        if not request.serializable and shown < op.floor_revision:
            raise Violation("reads", f"{op} is stale: revision {shown} < {op.floor_revision}")
        revision = request.revision or shown
        if not request.serializable and 0 < request.revision < op.floor_compacted:
            raise Violation("reads", f"{op}: {op.floor_compacted} was compacted")
        expected = model.range(request.key, request.range_end, revision)
        count = len(expected)
        if request.limit:
            expected = expected[: request.limit]
        found = list(map(kv_of, answer.kvs))
        if found != expected or answer.count != count or answer.more != (len(expected) < count):
            raise Violation("reads", f"{op} at {revision}: {found}, the model {expected}")
