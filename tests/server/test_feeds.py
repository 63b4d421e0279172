"""What no scrape of a process meets, or only after seconds: whether it is handed on. The parts are
stand-ins with numbers of their own; that the parts count is in their own tests.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from pyetcd.proto.errors import EtcdError, LearnerNotReady, MemberNotFound, MemberNotLearner
from pyetcd.server.api.cluster import ClusterApi
from pyetcd.server.core import Core
from pyetcd.server.feeds import feed
from pyetcd.server.metrics import Metrics
from pyetcd.server.peer.activity import PeerCounters
from pyetcd.store.apply import NOTHING, Applied
from pyetcd.store.tally import Tally
from pyetcd.store.v2tree import Stats


class Anything(SimpleNamespace):
    """Zero for every number that was not said."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return 0


def listener() -> Any:
    dispatcher = SimpleNamespace(counters={}, calls_by_version={})
    return SimpleNamespace(dispatcher=dispatcher, received_bytes_total=0, sent_bytes_total=0)


def core(**parts: Any) -> Any:
    counted: list[Callable[[int], None]] = []
    machine = Anything(
        keyspace=Anything(tally=Tally()),
        hub=Anything(),
        lessor=Anything(),
        compaction=Anything(),
        timings=Anything(),
        members=SimpleNamespace(version="3.5.0"),
        auth=Anything(),
        wal=Anything(),
        v2=SimpleNamespace(
            tree=SimpleNamespace(stats=Stats(), hub=Anything()),
        ),
        backend=SimpleNamespace(generation=0, size_bytes=0, in_use_bytes=0),
        count_keys=counted.append,
    )
    made = SimpleNamespace(
        machine=machine,
        v2_base=None,
        facts=Anything(member_id=0xA, defragment_hooks=[]),
        driver=Anything(commits=None),
        proposer=Anything(),
        reads=Anything(),
        chores=Anything(),
        turns=Anything(batch=[]),
        tuning=Anything(),
        transport=SimpleNamespace(
            snapshots_in=Anything(),
            peer_ids=[],
            counters={},
            identity=SimpleNamespace(member_id=0xA),
        ),
        services=SimpleNamespace(cluster=SimpleNamespace(promotions_total=0, promotions_failed={})),
    )
    made.counted = counted
    for name, part in parts.items():
        setattr(made, name, part)
    return made


def fed(made: Any) -> Metrics:
    metrics = Metrics()
    feed(metrics, cast(Core, made), client_listener=listener())
    return metrics


def lines(metrics: Metrics) -> list[str]:
    return metrics.render().decode().splitlines()


def test_failures_of_proposals_and_reads() -> None:
    made = core(proposer=Anything(failed_total=3), reads=Anything(failed_total=4, slow_total=5))
    made.machine.is_installing = True
    made.facts.is_log_lost = made.facts.is_disk_stalled = True
    text = lines(fed(made))
    assert "etcd_server_proposals_failed_total 3" in text
    assert "etcd_server_read_indexes_failed_total 4" in text
    assert "etcd_server_slow_read_indexes_total 5" in text
    assert "etcd_server_snapshot_apply_in_progress_total 1" in text
    assert "pyetcd_log_lost 1" in text and "pyetcd_disk_stalled 1" in text


def test_links_to_peers() -> None:
    made = core()
    counters = made.transport.counters[0xB] = PeerCounters()
    metrics = fed(made)
    name = "etcd_network_snapshot_send_inflights_total"
    assert not any('"b"' in line for line in lines(metrics))  # as etcd: nothing has happened yet
    counters.received_failures_total = 1
    counters.snapshot_send_failures_total = 2
    counters.snapshot_receive_failures_total = 3
    counters.snapshots_sending = counters.snapshots_receiving = 1
    text = lines(metrics)
    assert 'etcd_network_peer_received_failures_total{From="b"} 1' in text
    assert 'etcd_network_snapshot_send_failures{To="b"} 2' in text
    assert 'etcd_network_snapshot_receive_failures{From="b"} 3' in text
    assert name + '{To="b"} 1' in text
    assert 'etcd_network_snapshot_receive_inflights_total{From="b"} 1' in text
    counters.snapshots_sending = 0
    assert name + '{To="b"} 0' in lines(metrics)


def test_promotions() -> None:
    """Of the leader's own answers, with etcd's reasons."""
    outcomes: list[Any] = []
    configurer = SimpleNamespace(
        is_leader=True,
        match_by_id={},
        strict_reconfig_check=False,
        configure=lambda change, done: done(outcomes.pop()),
    )
    members = SimpleNamespace(all=list)
    api = ClusterApi(
        headers=cast(Any, SimpleNamespace(member_id=1)),
        reads=cast(Any, None),
        members=cast(Any, members),
        configurer=cast(Any, configurer),
    )
    configurer.match_by_id = {1: 10, 7: 10}
    outcomes += [MemberNotLearner(), MemberNotFound(), object()]
    answers: list[object] = []
    for _ in range(3):
        api.promote(7, answers.append)
    configurer.match_by_id = {1: 100, 7: 10}
    api.promote(7, answers.append)
    assert isinstance(answers[-1], LearnerNotReady)
    text = lines(fed(core(services=SimpleNamespace(cluster=api))))
    name = "etcd_server_learner_promote_failures"
    assert "etcd_server_learner_promote_successes 1" in text
    for reason in (
        "membership: ID not found",
        "membership: can only promote a learner member",
        "etcdserver: can only promote a learner member which is in sync with leader",
    ):
        assert f'{name}{{Reason="{reason}"}} 1' in text


def test_applied_entries_by_kind_and_outcome() -> None:
    made = core()
    metrics = fed(made)
    error = EtcdError()
    made.turns.batch = [
        NOTHING,
        Applied(1),
        Applied(2),
        Applied(3, op="lease_grant"),
        Applied(4, error=error),
        Applied(5, op="v2 PUT"),
        Applied(6, op=""),  # a change of the configuration
    ]
    made.driver.applied(7.0)
    made.driver.applied(7.0)  # nothing is left to count
    text = lines(metrics)
    name = "etcd_server_apply_duration_seconds_count"
    for labels, count in (
        ('op="Put",success="true",version="v3"', 2),
        ('op="LeaseGrant",success="true",version="v3"', 1),
        ('op="Put",success="false",version="v3"', 1),
        ('op="PUT",success="true",version="v2"', 1),
    ):
        assert f"{name}{{{labels}}} {count}" in text
    assert sum(line.startswith(name) for line in text) == 4
    total = 'etcd_server_apply_duration_seconds_sum{op="Put",success="true",version="v3"} 2'
    assert total in text


def test_keys_are_counted_once_and_then_kept_up() -> None:
    made = core()
    metrics = fed(made)
    tally = made.machine.keyspace.tally
    tally.keys = 5
    assert "etcd_debugging_mvcc_keys_total 5" in lines(metrics)
    tally.keys = 6  # while the thread counts what was there before
    made.counted.pop()(105)
    assert "etcd_debugging_mvcc_keys_total 106" in lines(metrics)
    tally.keys = 3
    assert "etcd_debugging_mvcc_keys_total 103" in lines(metrics)
    assert not made.counted
    made.machine.backend.generation = 1  # a snapshot was installed
    lines(metrics)
    made.counted.pop()(42)
    assert "etcd_debugging_mvcc_keys_total 42" in lines(metrics)
