"""What options do to the parts of a member; the listeners' are in tests/e2e/test_listeners.py."""

import asyncio
import ctypes
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pyetcd.raft.types import Message, MsgType
from pyetcd.server import datadir, startup
from pyetcd.server.bootstrap import InitialCluster, plan_new
from pyetcd.server.chores import Chores
from pyetcd.server.config import load
from pyetcd.server.datadir import DataDir
from pyetcd.server.logs import Log
from pyetcd.server.loop import Driver
from pyetcd.server.machine import StateMachine
from pyetcd.server.peer.activity import PeerCounters
from pyetcd.server.peer.codec import EntriesEncoder
from pyetcd.server.peer.streams import StreamKind, StreamWriter
from pyetcd.server.prepare import prepare, tuning_of
from pyetcd.server.startup import StartupRefused
from pyetcd.store.compact import compact
from pyetcd.store.lease import Lessor
from pyetcd.store.lockfile import LockFile
from pyetcd.store.mvcc import Keyspace


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataDir]:
    urls = ("http://127.0.0.1:2380",)
    initial = InitialCluster("a", {"a": urls}, "t", urls, is_new=True)
    lock = LockFile.claim(str(tmp_path / "member"))
    made = datadir.create(str(tmp_path), plan=plan_new(initial), token="t", lock=lock)
    yield made
    made.abandon()


def fill(data: DataDir, keys: int, value: bytes = b"v") -> None:
    machine_keys = [f"k{number:04d}".encode() for number in range(keys)]
    keyspace = Keyspace(data.backend)
    for key in machine_keys:
        txn = keyspace.begin()
        txn.put(key, value)
        txn.end()
    data.backend.commit()


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def machine_of(data: DataDir, clock: Clock, *argv: str) -> StateMachine:
    tuning = tuning_of(load(argv, {}))
    return StateMachine(
        data.backend,
        data.wal,
        member_id=data.wal.member_id,
        monotonic_s=clock,
        wall_s=lambda: 0.0,
        lease_ttl_min_s=2,
        quota_bytes=0,
        snapshot_count=1000,
        catchup_entries=10,
        run=cast(Any, None),
        quiesce=cast(Any, None),
        commit_interval_s=tuning.commit_interval_s,
        commit_changes_max=tuning.commit_changes_max,
        lease_checkpoint_interval_s=tuning.lease_checkpoint_interval_s,
    )


def test_numbers_reach_the_core() -> None:
    tuning = tuning_of(
        load(
            [
                "--backend-batch-interval=30ms",
                "--backend-batch-limit=7",
                "--experimental-compaction-batch-limit=3",
                "--experimental-compaction-sleep-interval=2s",
                "--experimental-enable-lease-checkpoint=false",
                "--experimental-warning-apply-duration=5s",
                "--experimental-snapshot-catchup-entries=9",
            ],
            {},
        )
    )
    assert (tuning.commit_interval_s, tuning.commit_changes_max) == (0.03, 7)
    assert (tuning.compact_rows_max, tuning.compact_pause_s) == (3, 2.0)
    assert (tuning.lease_checkpoint_interval_s, tuning.slow_apply_s) == (0.0, 5.0)
    assert tuning.catchup_entries == 9


def test_backend_batch(data: DataDir) -> None:
    """By size: a commit with the third change. By time: when the interval is over."""
    clock = Clock()
    machine = machine_of(data, clock, "--backend-batch-limit=8", "--backend-batch-interval=2s")
    committed: list[float] = []
    machine.timings.commit = committed.append
    for number in range(2):
        txn = machine.keyspace.begin()
        txn.put(f"k{number}".encode(), b"v")
        txn.end()
        machine.keep_up()
    assert not committed
    clock.now_s = 1.9
    machine.keep_up()
    assert not committed
    clock.now_s = 2.0
    machine.keep_up()
    assert len(committed) == 1
    for number in range(8):
        txn = machine.keyspace.begin()
        txn.put(f"k{number}".encode(), b"v")
        txn.end()
    machine.keep_up()
    assert len(committed) == 2


def test_compaction_limit_and_pause(data: DataDir) -> None:
    fill(data, 10)
    fill(data, 10)
    machine = machine_of(data, Clock())
    later: list[tuple[float, Any]] = []
    tuning = tuning_of(
        load(
            [
                "--experimental-compaction-batch-limit=3",
                "--experimental-compaction-sleep-interval=2s",
            ],
            {},
        )
    )
    loop = SimpleNamespace(call_later=lambda delay_s, job: later.append((delay_s, job)))
    chores = Chores(
        node=cast(Any, None),
        machine=machine,
        proposer=cast(Any, None),
        reads=cast(Any, None),
        loop=cast(Any, loop),
        monotonic_s=Clock(),
        election_timeout_s=1.0,
        versions=cast(Any, None),
        kv_path=data.backend.path,
        compact_rows_max=tuning.compact_rows_max,
        compact_pause_s=tuning.compact_pause_s,
    )
    compact(machine.keyspace, 21)
    chores.compact_soon()
    deleted = []
    while later:
        later.pop()[1]()
        deleted.append(machine.compaction.deleted)
        assert all(delay_s == 2.0 for delay_s, _ in later)
    assert deleted == [3, 6, 9, 10]


def test_checkpoints_of_leases_can_be_turned_off(data: DataDir) -> None:
    found = {}
    for id, flag in ((7, "true"), (8, "false")):
        clock = Clock()
        config = load([f"--experimental-enable-lease-checkpoint={flag}"], {})
        interval_s = config.lease_checkpoint_interval_s
        lessor = Lessor(data.backend, clock, checkpoint_interval_s=interval_s)
        lessor.grant(id, 1000)
        lessor.promote(0.0)
        clock.now_s = 400.0
        found[flag] = lessor.due_checkpoints()
    assert found == {"true": [(7, 600)], "false": []}


def test_no_fsync(data: DataDir) -> None:
    def levels() -> list[object]:
        checkpointer = data.backend._checkpointer
        assert checkpointer is not None
        files = (data.wal._connection, data.backend.connection, checkpointer)
        return [connection.pragma("synchronous") for connection in files]

    data.backend.checkpoint()
    assert levels() == [2, 1, 2]
    data.backend._checkpointer = None
    prepare(load(["--unsafe-no-fsync"], {}), data)
    data.backend.checkpoint()
    assert levels() == [0, 0, 0]
    data.backend.close()
    data.backend.reopen()  # after a snapshot was installed
    data.backend.checkpoint()
    assert levels() == [0, 0, 0]


def test_defragmentation_at_start(data: DataDir) -> None:
    fill(data, 400, bytes(8000))
    data.backend.execute("DELETE FROM revisions")
    data.backend.commit()
    size_bytes, used_bytes = data.backend.size_bytes, data.backend.in_use_bytes
    assert size_bytes - used_bytes > 1 << 20
    flag = "--experimental-bootstrap-defrag-threshold-megabytes"
    prepare(load([], {}), data)
    prepare(load([f"{flag}=100"], {}), data)
    assert data.backend.size_bytes == size_bytes
    prepare(load([f"{flag}=1"], {}), data)
    assert data.backend.size_bytes <= used_bytes


def test_memory_is_locked_or_the_start_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    library = SimpleNamespace(mlockall=lambda flags: asked.append(flags) or 0)
    monkeypatch.setattr(ctypes, "CDLL", lambda name, use_errno: library)
    startup.lock_memory()
    assert asked == [3]
    library.mlockall = lambda flags: ctypes.set_errno(12) or -1
    with pytest.raises(StartupRefused, match="failed to lock memory pages: cannot allocate"):
        startup.lock_memory()
    del library.mlockall
    with pytest.raises(StartupRefused, match="not on this system"):
        startup.lock_memory()


class Warnings:
    def __init__(self) -> None:
        self.lines: list[dict[str, object]] = []

    def warn(self, msg: str, **fields: object) -> None:
        self.lines.append(fields)


def test_a_slow_apply_is_logged_and_counted() -> None:
    replica = SimpleNamespace(applied_index=5)
    replica.work = lambda: setattr(replica, "applied_index", 8)
    for slow_apply_s, expected in ((-1.0, 1), (60.0, 0)):
        driver = Driver(
            cast(Any, replica),
            loop=cast(Any, None),
            tick_s=0.1,
            fatal=cast(Any, None),
            thread=cast(Any, object()),
            slow_apply_s=slow_apply_s,
        )
        warnings = Warnings()
        driver._log = cast(Log, warnings)
        took: list[float] = []
        driver.applied = took.append
        replica.applied_index = 5
        driver._work()
        assert driver.slow_apply_total == expected and len(took) == 1
        assert [line["entries"] for line in warnings.lines] == [3] * expected


def test_write_timeout_of_peer_links() -> None:
    """A link that takes nothing is given up after it, and not before."""

    class Stuck:
        buffered_bytes = 0
        aborted = False
        on_close = on_drain = None

        def write(self, data: bytes) -> None:
            self.buffered_bytes += len(data)

        def abort(self) -> None:
            self.aborted = True

    ended = {}
    for timeout_s in (5.0, 20.0):
        clock = Clock()
        loop = cast(asyncio.AbstractEventLoop, SimpleNamespace(time=clock))
        writer = StreamWriter(
            StreamKind.MESSAGE,
            loop=loop,
            entries_encoder=EntriesEncoder(),
            counters=PeerCounters(),
            unreachable=lambda: None,
            timeout_s=timeout_s,
        )
        responder = Stuck()
        writer.attach(cast(Any, responder))
        writer.put(Message(type=MsgType.HEARTBEAT, to=2, from_=1))
        writer.flush()
        while not responder.aborted:
            writer.heartbeat()
            clock.now_s += 1
        ended[timeout_s] = clock.now_s
    assert ended == {5.0: 7.0, 20.0: 22.0}
