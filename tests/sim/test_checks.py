"""The checks must be able to fail: each is shown what it is there for."""

import random
from types import SimpleNamespace
from typing import Any

import pytest
from sim.checkers import History, StateChecker, Violation, Witness, check_bounds
from sim.model import Model
from sim.settings import BadSetting, override, parse, show
from sim.shape import Shape

from pyetcd.proto.errors import LeaseNotFound
from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest
from pyetcd.raft.types import Entry
from pyetcd.server import loop
from pyetcd.store.apply import Applied
from pyetcd.store.mvcc import Change

PUT_ROW = (2 << 23, b"k", b"v", 2, 1, 0)


class Keyspace:
    """As much of one as the witness looks at."""

    def __init__(self) -> None:
        self.revision, self.compact_revision = 1, -1
        self.rows: list[Any] = []
        self.listener: Any = SimpleNamespace(wanted=False)

    def range(self, key: bytes, end: bytes) -> Any:
        return SimpleNamespace(rows=self.rows)


def tree() -> Any:
    root = SimpleNamespace(
        path="/1", is_dir=True, expiration_ns=0, modified_index=0, created_index=0
    )
    return SimpleNamespace(index=0, nodes=lambda: [root])


def member(applied: int = 0) -> Any:
    return SimpleNamespace(
        keyspace=Keyspace(),
        applied_index=applied,
        lessor=SimpleNamespace(ids=list),
        members=SimpleNamespace(all=list),
        auth=SimpleNamespace(enabled=False, revision=1, users=list, roles=list),
        v2=SimpleNamespace(index=0, tree=tree()),
    )


def history() -> tuple[History, Entry]:
    """One put was applied by the first member."""
    request = InternalRaftRequest()
    request.header.ID = 7
    request.put.key, request.put.value = b"k", b"v"
    entry = Entry(1, 1, data=request.SerializeToString())
    found = History(Model(1))
    found._commit(1, (entry.term, entry.type, entry.data))
    return found, entry


def apply(witness: Witness, machine: Any, entry: Entry, value: bytes = b"v") -> None:
    witness.begin()
    machine.keyspace.revision = 2
    machine.keyspace.listener.on_write(2, [Change(0, b"k", value, 2, 2, 1, 0)])
    machine.keyspace.rows = [PUT_ROW]
    witness.applied(entry)


def test_another_change_at_one_index_is_seen() -> None:
    found, entry = history()
    checker = StateChecker(found)
    for _ in range(2):
        machine = member()
        apply(Witness(checker, "m", machine), machine, entry)
    machine = member()
    with pytest.raises(Violation, match="state: m3 has"):
        apply(Witness(checker, "m3", machine), machine, entry, b"w")
    assert checker.compared_total == 3


@pytest.mark.parametrize("wrong", ["rows", "revision", "compact_revision", "applied", "members"])
def test_a_restart_with_something_else_is_seen(wrong: str) -> None:
    found, entry = history()
    checker = StateChecker(found)
    machine = member()
    apply(Witness(checker, "m1", machine), machine, entry)
    checker._members[0].append(1)
    checker._members[1].append([])
    machine.applied_index = 1
    Witness(checker, "m1", machine)  # as it was
    if wrong == "rows":
        machine.keyspace.rows = []
    elif wrong == "applied":
        machine.applied_index = 2
    elif wrong == "members":
        machine.members.all = lambda: ["another"]
    else:
        setattr(machine.keyspace, wrong, 9)
    with pytest.raises(Violation, match="state: m1 comes back"):
        Witness(checker, "m1", machine)


def test_members_that_answer_an_entry_differently_are_seen() -> None:
    found, entry = history()
    with pytest.raises(Violation, match="apply"):
        found.applied("m2", entry, Applied(7, error=LeaseNotFound()))


def test_a_queue_that_is_too_long_is_seen() -> None:
    def process(messages: int) -> Any:
        return SimpleNamespace(
            core=SimpleNamespace(proposer=SimpleNamespace(_waiting={})),
            driver=SimpleNamespace(_messages=[None] * messages, _held=[], _proposals={}),
            reads=SimpleNamespace(_queued=[], _round=[]),
            node=SimpleNamespace(
                raft=SimpleNamespace(
                    reads=[], progress={}, config=SimpleNamespace(reads_max=1, inflight_max=1)
                )
            ),
            wal=SimpleNamespace(_tail=SimpleNamespace(_entries=[])),
            machine=SimpleNamespace(hub=SimpleNamespace(_dirty={})),
            membership=SimpleNamespace(_changes={}),
        )

    check_bounds("m1", process(loop.MESSAGES_MAX))
    with pytest.raises(Violation, match="bounds: m1 holds 4097 messages, at most 4096"):
        check_bounds("m1", process(loop.MESSAGES_MAX + 1))


# Settings over a seed


@pytest.mark.parametrize(
    ("text", "like", "value"),
    [
        ("3", 1, 3), ("0.5", 1.0, 0.5), ("true", False, True), ("", ("a",), ()),
        ("kill,power", (), ("kill", "power")), ("1,2", (0.0, 0.0), (1.0, 2.0)), ("All", "x", "All"),
    ],
)  # fmt: skip
def test_settings_are_read_as_what_they_replace(text: str, like: Any, value: Any) -> None:
    assert parse(text, like) == value
    assert parse(show(value), like) == value


def test_a_setting_over_a_shape() -> None:
    shape = Shape.draw(random.Random(1))
    override(shape, "members=1")
    override(shape, "network.loss=0.25")
    assert shape.members == 1 and shape.network.loss == 0.25
    for wrong in ("nothing=1", "members=many", "network=1", "members", "network.nothing=1"):
        with pytest.raises(BadSetting):
            override(shape, wrong)
