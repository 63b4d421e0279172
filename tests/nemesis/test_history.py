"""Each checker of the nemesis sees the violation it is there for, planted in a true history."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import clients
import history as checkers

A, B = b"k/a", b"k/b"


def version(key, value, create, mod, count, lease=0):
    return (key, value, create, mod, count, lease)


A2 = version(A, b"1", 2, 2, 1)
B3 = version(B, b"2", 3, 3, 1)
A4 = version(A, b"3", 2, 4, 2)
B5 = version(B, b"", 0, 5, 0)  # deleted
L6 = version(b"l/7", b"4", 6, 6, 1, 7)
A7 = version(A, b"5", 2, 7, 3)  # one transaction of two
B7 = version(B, b"5", 7, 7, 1)
L8 = version(b"l/7", b"", 0, 8, 0)  # its lease ended
EVENTS = [
    (0, A2, None),
    (0, B3, None),
    (0, A4, A2),
    (1, B5, B3),
    (0, L6, None),
    (0, A7, A4),
    (0, B7, None),
    (1, L8, L6),
]
READ = clients.Op("read", 0, 3.5, 3.6, 4, key=A, range_end=b"k/c", seen=[A4, B3])
OPS = [
    clients.Op("put", 0, 1.0, 1.1, 2, writes=[(A, b"1")], wrote=True, previous=[], key=A),
    clients.Op("put", 0, 2.0, 2.1, 3, writes=[(B, b"2")], wrote=True),
    clients.Op("put", 0, 3.0, 3.1, 4, writes=[(A, b"3")], wrote=True, previous=[A2], key=A),
    READ,
    clients.Op("delete", 0, 4.0, 4.1, 5, writes=[(B, None)], wrote=True, key=B, previous=[B3]),
    clients.Op("put", 0, 5.0, 5.1, 6, writes=[(b"l/7", b"4")], wrote=True, lease=7),
    clients.Op("txn", 0, 6.0, writes=[(A, b"5"), (B, b"5")], error="UNAVAILABLE: gone"),
    clients.Op("stale", 0, 9.0, 9.1, 3, key=A, seen=[A2]),
    clients.Op("cas", 0, 9.5, 9.6, 8, writes=[(A, b"6")], key=A, seen=[A7]),
]
SEEN = clients.Seen(
    b"k/",
    b"k0",
    3,
    True,
    0,
    batches=[(3.0, EVENTS[1:2]), (4.0, EVENTS[2:4]), (7.0, EVENTS[5:7])],
    progress=[(2, 6)],
)


def faults_of(events=EVENTS, ops=OPS, seen=SEEN, lease_acks=((7, 5.0, 8.0),), lease_end_s=8.5):
    """Of every checker."""
    told = checkers.History(events)
    checkers.check_answers(told, ops)
    checkers.check_order(told, ops)
    checkers.check_once(told)
    checkers.check_watch(told, seen)
    client = SimpleNamespace(lease_acks=list(lease_acks), revoked=set())
    leased = clients.Seen(b"l/", b"l0", 1, True, 0, batches=[(lease_end_s, EVENTS[7:])])
    checkers.check_leases(told, [client], [leased])
    return told.faults


def changed(number, **fields):
    return [replace(op, **fields) if at == number else op for at, op in enumerate(OPS)]


def without(number):
    return [event for at, event in enumerate(EVENTS) if at != number]


def batched(*batches):
    return replace(SEEN, batches=[(3.0, list(events)) for events in batches], progress=[])


def test_a_true_history_has_no_fault():
    assert faults_of() == []


@pytest.mark.parametrize(
    ("planted", "fault"),
    [
        # The history itself.
        ({"events": without(4)}, "follows"),
        ({"events": [*EVENTS[:2], (0, A4, None), *EVENTS[3:]]}, "prev_kv of"),
        (
            {"events": [*EVENTS[:2], (0, version(A, b"3", 2, 4, 3), A2), *EVENTS[3:]]},
            "create_revision and version",
        ),
        ({"events": [(1, A2, None), *EVENTS[1:]]}, "deleted what was not there"),
        # Answers.
        ({"ops": changed(0, revision=9)}, "the last is"),
        ({"ops": changed(0, writes=[(A, b"lost")])}, "acknowledged"),
        ({"ops": changed(2, revision=3)}, "acknowledged"),
        ({"ops": changed(5, lease=8)}, "without its lease"),
        ({"ops": changed(3, seen=[A2, B3])}, "is not the state"),
        ({"ops": changed(3, seen=[A4])}, "is not the state"),
        ({"ops": changed(7, seen=[A4])}, "is not the state"),  # a stale read of what never was
        ({"ops": changed(8, seen=[A4])}, "is not the state"),  # a comparison that should succeed
        ({"ops": changed(2, previous=[])}, "replaced"),
        # The order in real time.
        ({"ops": changed(3, end_s=6.6)}, None),  # begun before anything newer was known
        ({"ops": changed(3, start_s=6.5, end_s=6.6)}, "was known before"),
        ({"ops": [*OPS, replace(READ, start_s=5.5, end_s=5.6)]}, "was known before"),
        ({"ops": changed(1, start_s=3.2, end_s=3.3)}, "was known before"),
        ({"ops": changed(6, error="too many requests")}, "refused, but done"),
        # Twice.
        (
            {"events": [*EVENTS, (0, version(A, b"5", 2, 9, 4), A7)]},
            "written twice",
        ),
        # Watches.
        ({"seen": batched(EVENTS[1:2], EVENTS[3:4])}, "watch of"),  # a gap
        ({"seen": batched(EVENTS[1:2], EVENTS[1:2])}, "watch of"),  # twice
        ({"seen": batched(EVENTS[2:3], EVENTS[1:2])}, "watch of"),  # order
        ({"seen": batched(EVENTS[:1])}, "watch of"),  # before its start
        ({"seen": batched([(0, B3, A2)])}, "watch of"),  # prev_kv
        ({"seen": batched(EVENTS[1:4], EVENTS[5:6], EVENTS[6:7])}, "in two answers"),
        ({"seen": replace(SEEN, progress=[(2, 7)])}, "progress to"),
        # Leases.
        ({"lease_end_s": 7.5}, "before its time"),
    ],
)
def test_a_planted_violation(planted, fault):
    found = faults_of(**planted)
    if fault is None:
        assert found == []
    else:
        assert any(fault in each for each in found), found


def test_a_key_that_outlives_its_lease():
    revoked = clients.Op("revoke", 0, 10.0, 10.1, 8, lease=7)
    assert faults_of(ops=[*OPS, revoked]) == []
    found = faults_of(events=without(7), ops=[*OPS[:8], replace(revoked, revision=7)])
    assert any("outlived its lease" in each for each in found), found
