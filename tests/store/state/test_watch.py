"""The watch hub by facts (SURFACE 8.3, RELIABILITY 1.1 and 1.6)."""

from collections.abc import Callable
from typing import Any

import pytest

from pyetcd.proto.kv_pb2 import Event, KeyValue
from pyetcd.proto.rpc_pb2 import (
    DeleteRangeRequest,
    PutRequest,
    RequestOp,
    TxnRequest,
    WatchResponse,
)
from pyetcd.store import streams
from pyetcd.store.events import EventSet, encode_event, fragments, varint
from pyetcd.store.intervals import Intervals
from pyetcd.store.mvcc import Change


def test_item_26_the_created_reply_comes_first(machine: Any, client: Any) -> None:
    machine.put("a")
    assert client.watch("a", start=1) == 0
    created, batch = client.take()
    assert (created.created, created.watch_id, created.revision) == (True, 0, 2)
    assert not created.events.chunks and len(batch.events.chunks) == 1


def test_item_26_ids_are_given_out_in_order_and_skip_used_ones(client: Any) -> None:
    assert client.watch("a", watch_id=2) == 2
    assert [client.watch("a") for _ in range(4)] == [0, 1, 3, 4]


def test_item_26_a_used_id_is_refused(client: Any) -> None:
    client.watch("a", watch_id=7)
    client.take()
    assert client.watch("b", watch_id=7) == -1
    (reply,) = client.take()
    assert reply.created and reply.canceled and reply.watch_id == -1
    assert reply.reason == "mvcc: duplicate watch ID provided on the WatchStream"


def test_item_26_an_empty_range_is_refused(client: Any) -> None:
    assert client.watch("b", "a") == -1
    (reply,) = client.take()
    assert reply.reason == "mvcc: watcher range is empty"


def test_item_13_an_empty_key_is_the_smallest_key(machine: Any, client: Any) -> None:
    client.watch("", "\0")
    machine.put("a")
    assert client.events() == [("a", 2)]


def test_negative_start_revision_is_refused_as_in_3_5_24(client: Any) -> None:
    assert client.watch("a", start=-1) == -1
    (reply,) = client.take()
    assert reply.canceled and reply.created and reply.compact_revision == 0
    assert reply.reason == "etcdserver: mvcc: required revision has been compacted"


def test_item_27_start_zero_is_from_now(machine: Any, client: Any) -> None:
    machine.put("a")
    client.watch("a")
    machine.put("a")
    assert client.events() == [("a", 3)]


def test_item_27_a_past_revision_replays_history(machine: Any, client: Any) -> None:
    for key in "abab":
        machine.put(key)
    client.watch("a", start=2)
    machine.put("a")
    assert client.events() == [("a", 2), ("a", 4), ("a", 6)]


def test_row_18_a_future_revision_gets_nothing_older(machine: Any, client: Any) -> None:
    client.watch("a", start=5)
    for _ in range(4):
        machine.put("a")
    assert client.events() == [("a", 5)]


def test_row_18_a_future_watcher_has_no_progress(machine: Any, client: Any) -> None:
    client.watch("a", start=5, progress_notify=True)
    client.take()
    client.stream.request_progress()
    client.stream.notify_progress()
    assert client.take() == []
    for _ in range(4):
        machine.put("b")
    client.stream.request_progress()
    assert [reply.revision for reply in client.take()] == [5]


def test_item_32_a_stream_without_watches_has_no_progress(client: Any) -> None:
    client.stream.request_progress()
    assert client.take() == []


def put_op(key: str) -> RequestOp:
    return RequestOp(request_put=PutRequest(key=key.encode(), value=b"x"))


def test_item_28_a_revision_is_one_response_in_order(machine: Any, client: Any) -> None:
    client.watch("a", "z")
    machine.do(txn=TxnRequest(success=[put_op(key) for key in "cab"]))
    client.watch("a", "z", start=2)
    replies = [reply for reply in client.take() if reply.events.chunks]
    assert [len(reply.events.chunks) for reply in replies] == [3, 3]
    assert replies[0].events.joined() == replies[1].events.joined()


def test_item_28_keys_come_in_the_order_of_the_changes(machine: Any, client: Any) -> None:
    client.watch("a", "z")
    machine.do(txn=TxnRequest(success=[put_op(key) for key in "cab"]))
    assert client.events() == [("c", 2), ("a", 2), ("b", 2)]


def test_item_28_catching_up_takes_at_most_1000_revisions_at_once(
    machine: Any, client: Any
) -> None:
    for _ in range(2500):
        machine.put("a")
    client.watch("a", start=2)
    batches = [reply for reply in client.take() if reply.events.chunks]
    assert [len(reply.events.chunks) for reply in batches] == [1000, 1000, 500]
    assert {reply.revision for reply in batches} == {2501}


def test_item_28_the_header_of_a_live_batch_is_its_revision(machine: Any, client: Any) -> None:
    client.watch("a")
    client.take()
    machine.put("a")
    machine.put("b")
    machine.put("a")
    assert [reply.revision for reply in client.take()] == [2, 4]


def test_a_large_revision_is_not_split_when_catching_up(machine: Any, client: Any) -> None:
    for n in range(60):
        machine.put(f"k{n:03}")
    machine.do(delete_range=DeleteRangeRequest(key=b"k", range_end=b"l"))
    client.watch("k", "l", start=62)
    (batch,) = [reply for reply in client.take() if reply.events.chunks]
    assert len(batch.events.chunks) == 60


def test_item_29_prev_kv(machine: Any, client: Any, decode: Callable[..., Any]) -> None:
    client.watch("a", prev_kv=True)
    client.watch("a")
    machine.put("a", "1")
    machine.put("a", "2")
    machine.do(delete_range=DeleteRangeRequest(key=b"a"))
    replies = client.take()
    with_prev = [e for r in replies if r.watch_id == 0 for e in decode(r)]
    without = [e for r in replies if r.watch_id == 1 for e in decode(r)]
    assert [e.prev_kv.value for e in with_prev] == [b"", b"1", b"2"]
    assert [e.HasField("prev_kv") for e in with_prev] == [False, True, True]
    assert not any(e.HasField("prev_kv") for e in without)
    deleted = with_prev[2]
    assert (deleted.type, deleted.kv.key, deleted.kv.mod_revision) == (1, b"a", 4)
    assert (deleted.kv.version, deleted.kv.create_revision, deleted.kv.value) == (0, 0, b"")


def test_item_29_prev_kv_is_left_out_when_compacted(
    machine: Any, client: Any, decode: Callable[..., Any]
) -> None:
    machine.put("a", "1")
    machine.put("a", "2")
    machine.compact(3)
    client.watch("a", start=3, prev_kv=True)
    events = [event for reply in client.take() for event in decode(reply)]
    assert [event.HasField("prev_kv") for event in events] == [False]


def test_item_30_filters(machine: Any, client: Any) -> None:
    client.watch("a", "c", filters=[0])  # NOPUT
    client.watch("a", "c", filters=[1])  # NODELETE
    client.watch("a", "c", filters=[0, 1])
    machine.put("a")
    machine.put("b")
    machine.do(delete_range=DeleteRangeRequest(key=b"a", range_end=b"c"))
    client.watch("a", "c", start=2, filters=[0], watch_id=9)
    replies = client.take()
    sizes = {
        id: [len(r.events.chunks) for r in replies if r.watch_id == id and not r.created]
        for id in (0, 1, 2, 9)
    }
    assert sizes == {0: [2], 1: [1, 1], 2: [], 9: [2]}


def test_item_31_cancel(machine: Any, client: Any) -> None:
    client.watch("a")
    client.watch("a")
    client.take()
    client.stream.cancel(0)
    client.stream.cancel(5)  # unknown: no answer
    client.stream.cancel(0)
    machine.put("a")
    replies = client.take()
    assert [(r.watch_id, r.canceled, r.reason) for r in replies] == [(0, True, ""), (1, False, "")]
    assert machine.hub.watchers == 1


def test_item_32_progress_is_requested_for_the_whole_stream(machine: Any, client: Any) -> None:
    client.stream.request_progress()
    assert client.take() == []  # nobody to speak for
    client.watch("a")
    client.watch("b")
    client.take()
    machine.put("b")
    client.stream.request_progress()
    assert [(r.watch_id, r.revision, bool(r.events.chunks)) for r in client.take()] == [
        (1, 2, True),
        (-1, 2, False),
    ]


def test_row_8_no_progress_while_one_watcher_is_behind(machine: Any, client: Any) -> None:
    machine.put("a")
    client.watch("b")
    client.watch("a", start=1)  # unsynced until the next step
    client.stream.request_progress()
    assert [r.watch_id for r in client.take()] == [0, 1, 1]
    client.stream.request_progress()
    assert [r.watch_id for r in client.take()] == [-1]


def test_row_12_an_idle_watch_is_notified_every_interval(machine: Any, client: Any) -> None:
    client.watch("a", progress_notify=True)
    client.watch("b")
    client.take()
    for _ in range(3):
        machine.put("z")
        client.stream.notify_progress()
        assert [r.watch_id for r in client.take()] == [0]
    machine.put("a")
    client.stream.notify_progress()  # an event was sent: nothing to add
    assert [len(r.events.chunks) for r in client.take()] == [1]
    client.stream.notify_progress()
    assert [len(r.events.chunks) for r in client.take()] == [0]


@pytest.mark.parametrize(
    ("sizes", "limit", "pieces"),
    [
        ([10, 10, 10], 100, [3]),
        ([10, 10, 10], 25, [1, 1, 1]),
        ([10, 10, 10], 26, [2, 1]),
        ([200, 10], 100, [1, 1]),
        ([200], 100, [1]),
    ],
)
def test_item_33_fragments(sizes: list[int], limit: int, pieces: list[int]) -> None:
    events = EventSet(tuple(bytes(size) for size in sizes))
    found = list(fragments(events, limit, 5))
    assert [len(piece.chunks) for piece in found] == pieces
    assert b"".join(piece.joined() for piece in found) == events.joined()


def test_item_34_a_slow_watcher_is_dropped_and_catches_up(
    machine: Any, client: Any, make_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "REPLIES_MAX", 4)
    other = make_client(machine.hub)
    client.slow = True
    client.watch("a")
    other.watch("a")
    for _ in range(20):
        machine.put("a")
        other.settle()
    assert client.stream.is_full and machine.hub.slow == machine.hub.blocked == 1
    expected = [("a", revision) for revision in range(2, 22)]
    assert other.events() == expected
    assert client.events() == expected
    assert machine.hub.slow == 0
    machine.put("a")
    assert client.events() == [("a", 22)]


def test_row_11_compaction_behind_a_slow_watcher_cancels_it(
    machine: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "REPLIES_MAX", 2)
    client.slow = True
    client.watch("a")
    for _ in range(5):
        machine.put("a")
    machine.compact(6)
    replies = client.take()
    assert [r.revision for r in replies if r.events.chunks] == [2]
    last = replies[-1]
    assert (last.canceled, last.compact_revision, last.revision, last.reason) == (True, 6, 0, "")
    assert machine.hub.watchers == 0


def test_item_23_a_start_below_the_compaction_is_cancelled(machine: Any, client: Any) -> None:
    for _ in range(5):
        machine.put("a")
    machine.compact(4)
    client.watch("a", start=3)
    created, canceled = client.take()
    assert created.created and not created.canceled
    assert (canceled.canceled, canceled.compact_revision, canceled.revision) == (True, 4, 0)
    client.stream.cancel(0)  # as clients do; etcd answers, too
    assert [r.canceled for r in client.take()] == [True]


def test_rows_14_15_a_start_at_the_compaction_misses_nothing(machine: Any, client: Any) -> None:
    for key in "abc":
        machine.put(key)
    machine.do(delete_range=DeleteRangeRequest(key=b"b"))
    machine.compact(5)
    client.watch("a", "z", start=5)
    assert client.events() == [("-b", 5)]


def test_row_9_nobody_travels_back_in_time_after_a_snapshot(
    make_machine: Callable[..., Any], make_client: Any, decode: Callable[..., Any]
) -> None:
    behind, ahead = make_machine("behind.db"), make_machine("ahead.db")
    client = make_client(behind.hub)
    client.watch("a")
    client.watch("a", start=6, watch_id=1)
    client.watch("a", start=50, watch_id=2)
    for machine in (behind, ahead):
        machine.put("a")
        machine.put("a")
    assert client.events() == [("a", 2), ("a", 3)]
    for _ in range(5):
        ahead.put("a")
    behind.hub.restore(ahead.keyspace)
    ahead.keyspace.listener = behind.hub
    ahead.put("a")
    replies = client.take()
    revisions = {
        id: [e.kv.mod_revision for r in replies if r.watch_id == id for e in decode(r)]
        for id in (0, 1, 2)
    }
    assert revisions == {0: [4, 5, 6, 7, 8, 9], 1: [6, 7, 8, 9], 2: []}


def test_after_a_compacting_snapshot_watchers_are_cancelled(
    make_machine: Callable[..., Any], make_client: Any
) -> None:
    behind, ahead = make_machine("behind.db"), make_machine("ahead.db")
    client = make_client(behind.hub)
    client.watch("a")
    for _ in range(9):
        ahead.put("a")
    ahead.compact(8)
    behind.hub.restore(ahead.keyspace)
    assert [r.compact_revision for r in client.take()] == [0, 8]


def test_closing_a_stream_forgets_all_its_watchers(
    machine: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "REPLIES_MAX", 4)
    client.slow = True
    machine.put("a")
    client.watch("a")
    client.watch("a", "b", start=1)
    client.watch("a", "\0")
    for _ in range(5):
        machine.put("a")
    client.watch("a", start=1)
    client.stream.close()
    hub = machine.hub
    assert (hub.watchers, hub.slow, hub.blocked, hub.streams, hub.wanted) == (0, 0, 0, 0, False)


def test_the_number_of_watchers_is_bounded(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "WATCHERS_MAX", 2)
    assert [client.watch("a") for _ in range(3)] == [0, 1, -1]
    assert client.take()[-1].reason == "etcdserver: too many requests"


def test_events_are_encoded_once_for_all_watchers(
    machine: Any, client: Any, make_client: Any
) -> None:
    other = make_client(machine.hub)
    client.watch("a", "b")
    other.watch("a")
    machine.put("a")
    (first,) = [r for r in client.take() if r.events.chunks]
    (second,) = [r for r in other.take() if r.events.chunks]
    assert first.events is second.events


def test_one_far_behind_does_not_starve_the_others(machine: Any, make_client: Any) -> None:
    for _ in range(3000):
        machine.put("a")
    far, near = make_client(machine.hub), make_client(machine.hub)
    far.watch("a", start=2)
    near.watch("a", start=3000)
    machine.hub.step()
    machine.hub.step()
    assert len([r for r in near.replies if r.events.chunks]) == 1


def test_wake_is_called_once_until_the_work_is_done(machine: Any, client: Any) -> None:
    woken: list[bool] = []
    machine.hub.wake = lambda: woken.append(True)
    client.watch("a")
    client.watch("b")
    machine.put("a")
    assert woken == [True]
    client.settle()
    machine.put("a")
    assert woken == [True, True]


def test_varint_of_negative_ids() -> None:
    assert varint(0) == b"\0" and varint(300) == b"\xac\x02"
    assert varint(-1) == b"\xff" * 9 + b"\x01"


def test_intervals_worked_example() -> None:
    ranges: Intervals[str] = Intervals()
    for start, end, value in (("a", "c", "1"), ("b", "d", "2"), ("b", "d", "3"), ("a", "\0", "4")):
        ranges.add(start.encode(), end.encode(), value)
    assert [list(found) for found in ranges.stab(b"b")] == [["1"], ["2", "3"], ["4"]]
    assert [list(found) for found in ranges.stab(b"c")] == [["2", "3"], ["4"]]
    assert [list(found) for found in ranges.stab(b"z")] == [["4"]]
    ranges.remove(b"b", b"d", "2")
    ranges.remove(b"b", b"d", "3")
    assert [list(found) for found in ranges.stab(b"c")] == [["4"]]


@pytest.mark.parametrize("length", [1, 127, 128, 20_000])
def test_a_delete_is_encoded_as_protobuf_does(length: int) -> None:
    key, revision = bytes(length), 1 << 35
    chunk = encode_event(Change(1, key, b"", 0, revision, 0, 0))
    expected = WatchResponse(
        events=[Event(type=Event.DELETE, kv=KeyValue(key=key, mod_revision=revision))]
    )
    assert chunk == expected.SerializeToString()


def test_a_watcher_of_one_key_reads_only_its_history(machine: Any, client: Any) -> None:
    machine.put("a")
    for _ in range(2500):
        machine.put("b")
    machine.put("a")
    client.watch("a", start=2, prev_kv=True)
    machine.hub.step()
    assert [len(reply.events.chunks) for reply in client.replies] == [0, 2]
    assert machine.hub.slow == 0
