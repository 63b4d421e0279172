"""Compaction and history: facts 21 to 25."""

import time
from typing import Any

import pytest

from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.server.clock import ManualClock
from pyetcd.server.compactor import Compactor

COMPACTED = (11, "etcdserver: mvcc: required revision has been compacted")
FUTURE = (11, "etcdserver: mvcc: required revision is a future revision")
MINUTE_S = 60.0
HOUR_S = 3600.0


def put_ops(keys: list[bytes]) -> list[rpc.RequestOp]:
    return [rpc.RequestOp(request_put=rpc.PutRequest(key=key)) for key in keys]


def test_fact_21_what_may_be_compacted(side: Any) -> None:
    """Anything after the last compaction up to and with the current revision."""
    side.put(b"k")
    middle = side.put(b"k").header.revision
    now = side.put(b"k").header.revision
    assert side("KV.Compact", revision=now + 1) == FUTURE
    assert side("KV.Compact", revision=middle).header.revision == now
    assert side("KV.Compact", revision=middle) == COMPACTED
    assert side("KV.Compact", revision=middle - 1) == COMPACTED
    assert side("KV.Compact", revision=now).header.revision == now
    assert side("Maintenance.HashKV").compact_revision == now


def test_fact_21_a_fresh_store_may_be_compacted_at_0_and_1(side: Any) -> None:
    """The last compaction begins at -1: below it nothing, then 0 and 1, and 2 is the future."""
    fresh = side.fresh()
    assert fresh("KV.Compact", revision=-3) == COMPACTED
    assert fresh("KV.Compact", revision=-1) == COMPACTED
    assert fresh("KV.Compact", revision=2) == FUTURE
    for revision in (0, 1):
        assert fresh("KV.Compact", revision=revision).header.revision == 1
        assert fresh("KV.Compact", revision=revision) == COMPACTED


@pytest.mark.parametrize("physical", [False, True])
def test_fact_22_what_a_compaction_leaves(side: Any, physical: bool) -> None:
    """From the compacted revision on everything can be read, before it nothing."""
    side.put(b"old", b"1")
    side.put(b"gone", b"1")
    side.delete(b"gone")
    side.put(b"k", b"1")
    at = side.put(b"k", b"2").header.revision
    side.put(b"k", b"3")
    side("KV.Compact", revision=at, physical=physical)
    then = {each.key: each.value for each in side.get_all(revision=at).kvs}
    assert then == {side.key(b"old"): b"1", side.key(b"k"): b"2"}
    assert side.get_all(revision=at).header.revision == at + 1
    assert side.get_all(revision=at - 1) == COMPACTED
    assert side.get(b"old", revision=at - 1) == COMPACTED
    now = {each.key: each.value for each in side.get_all().kvs}
    assert now == {side.key(b"old"): b"1", side.key(b"k"): b"3"}


def test_fact_22_a_delete_at_the_compacted_revision(side: Any) -> None:
    """A delete before the compacted revision is dropped. One exactly at it is dropped by 3.5.1 and
    kept by pyetcd, as from 3.5.16 on (docs/differences.md: a tombstone exactly at the compact
    revision): a watch from there sees it."""
    side.put(b"before")
    side.put(b"at")
    side.delete(b"before")
    at = side.delete(b"at").header.revision
    side("KV.Compact", revision=at, physical=True)
    side.put(b"after")
    watch = side.watch(start_revision=at)
    assert watch.take().created
    seen: list[tuple[int, bytes]] = []
    while not seen or seen[-1] != (0, side.key(b"after")):
        seen += [(event.type, event.kv.key) for event in watch.take().events]
    deleted = [] if side.is_etcd else [(1, side.key(b"at"))]
    assert seen == [*deleted, (0, side.key(b"after"))]


def test_fact_23_a_watch_from_before_a_compaction(side: Any) -> None:
    """It is created, then cancelled with the compacted revision, and no revision or reason."""
    for _ in range(3):
        now = side.put(b"k").header.revision
    side("KV.Compact", revision=now)
    late = side.watch(start_revision=now - 1)
    assert late.take() == rpc.WatchResponse(header={"revision": now}, created=True)
    assert late.take() == rpc.WatchResponse(header={}, canceled=True, compact_revision=now)
    just = side.watch(start_revision=now)
    assert just.take() == rpc.WatchResponse(header={"revision": now}, created=True)
    assert [event.kv.mod_revision for event in just.take().events] == [now]


def test_fact_24_a_physical_compaction_is_waited_for(short: Any) -> None:
    """physical answers when all is deleted, batch by batch with 10 ms between. (A batch is 1000
    revisions, in pyetcd also what fits in 10 ms; a flag makes it small here.)"""
    keys = [short.key(b"%03d" % number) for number in range(100)]
    for _ in range(3):
        now = short.txn(success=put_ops(keys)).header.revision
    deleted = "etcd_debugging_mvcc_db_compaction_keys_total"
    before = short.metric(deleted)
    began_s = time.monotonic()
    assert short("KV.Compact", revision=now, physical=True).header.revision == now
    took_s = time.monotonic() - began_s
    assert short.metric(deleted) == before + 200
    assert took_s >= 19 * 0.01
    assert short.get_all().count == 100


def test_fact_25_compaction_by_age(side: Any) -> None:
    """What is older than the period is compacted, and nothing younger."""
    period_s = 0.3
    fresh = side.fresh("--auto-compaction-mode=periodic", "--auto-compaction-retention=300ms")
    began_s = time.monotonic()
    first = fresh.put(b"k").header.revision
    while fresh("Maintenance.HashKV").compact_revision < first:
        assert time.monotonic() < began_s + 20
        time.sleep(0.02)
    assert time.monotonic() - began_s >= period_s


class Cluster:
    """A leader on a clock that is told to move; its revision grows by one each minute."""

    def __init__(self, **retention: Any) -> None:
        self.is_leader = True
        self.asked: list[tuple[float, int]] = []
        self.clock = ManualClock()
        self.compactor = Compactor(
            node=self,
            proposer=self,
            revision=self.revision,
            monotonic_s=self.clock.monotonic_s,
            **retention,
        )

    def revision(self) -> int:
        return 1 + int(self.clock.monotonic_s() / MINUTE_S)

    def propose_as_leader(self, request: Any, done: Any) -> None:
        self.asked.append((self.clock.monotonic_s(), request.compaction.revision))
        done(rpc.CompactionResponse())

    def run(self, duration_s: float) -> list[tuple[float, int]]:
        for _ in range(int(duration_s)):
            self.compactor.ticked()
            self.clock.advance(1.0)
        return self.asked


@pytest.mark.parametrize(
    ("period_s", "sample_s", "interval_s"),
    [
        (10 * MINUTE_S, MINUTE_S, 10 * MINUTE_S),
        (HOUR_S, 6 * MINUTE_S, HOUR_S),
        (3 * HOUR_S, 6 * MINUTE_S, HOUR_S),
    ],
)
def test_fact_25_when_the_age_is_looked_at(
    period_s: float, sample_s: float, interval_s: float
) -> None:
    """Revisions are noted ten times a period, at least every six minutes; the first compaction is
    after one period, the next ones after a period or an hour. (Too long for a real server.)"""
    asked = Cluster(period_s=period_s).run(period_s + 2 * interval_s + 1)
    times_s = [at_s for at_s, _ in asked]
    assert times_s == [period_s, period_s + interval_s, period_s + 2 * interval_s]
    assert asked[0][1] == 1
    for at_s, revision in asked[1:]:
        age_s = at_s - (revision - 1) * MINUTE_S
        assert period_s <= age_s <= period_s + sample_s


def test_fact_25_compaction_by_count() -> None:
    """Every five minutes all but the newest revisions are compacted. (Too long for a real one.)"""
    asked = Cluster(revisions=8).run(20 * MINUTE_S + 1)
    # After five minutes there are six, fewer than are to be kept.
    assert asked == [(600.0, 11 - 8), (900.0, 16 - 8), (1200.0, 21 - 8)]
