"""Watch: facts 26 to 34."""

import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from pyetcd.proto import kv_pb2 as kv
from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.services import METHODS
from pyetcd.store import streams
from pyetcd.store.backend import Backend
from pyetcd.store.events import Reply
from pyetcd.store.mvcc import Keyspace
from pyetcd.store.streams import WatchStream
from pyetcd.store.txn import apply_put
from pyetcd.store.watch import WatchHub

NOPUT, NODELETE = 0, 1
KIB = 1024


def created(revision: int, watch_id: int = 0) -> rpc.WatchResponse:
    return rpc.WatchResponse(header={"revision": revision}, watch_id=watch_id, created=True)


def ask(side: Any, stream: Any, name: bytes, **fields: Any) -> None:
    """One watch more on a stream."""
    stream.ask(create_request=rpc.WatchCreateRequest(key=side.key(name), **fields))


def ask_progress(stream: Any) -> None:
    stream.ask(progress_request=rpc.WatchProgressRequest())


def seen(side: Any, answer: Any) -> list[tuple[int, bytes, int]]:
    """(type, key, revision) of an answer's events."""
    return [
        (event.type, event.kv.key[len(side.prefix) :], event.kv.mod_revision)
        for event in answer.events
    ]


def put_many(side: Any, name: bytes, value: bytes, count: int) -> list[int]:
    """So many puts of a key, on their way at once; their revisions."""
    method = METHODS["/etcdserverpb.KV/Put"]
    stub = side.channel.unary_unary(
        method.path,
        request_serializer=method.request.SerializeToString,
        response_deserializer=method.response.FromString,
    )
    request = rpc.PutRequest(key=side.key(name), value=value)
    calls = [stub.future(request, timeout=20) for _ in range(count)]
    return sorted(call.result().header.revision for call in calls)


def test_fact_26_the_first_answer_of_a_watch(side: Any) -> None:
    """A watch is told of its creation, with the current revision, before any event."""
    first = side.put(b"k").header.revision
    now = side.put(b"other").header.revision
    watch = side.watch(b"k", start_revision=first)
    assert watch.take() == created(now)
    assert seen(side, watch.take()) == [(0, b"k", first)]


def test_fact_26_the_ids_of_watches(side: Any) -> None:
    """An id of one's own, or the next free one; one in use is refused as -1."""
    now = side.revision()
    watch = side.watch(b"k", watch_id=2)
    assert watch.take() == created(now, 2)
    for expected in (0, 1, 3):
        ask(side, watch, b"k")
        assert watch.take() == created(now, expected)
    ask(side, watch, b"k", watch_id=2)
    refused = created(now, -1)
    refused.canceled = True
    refused.cancel_reason = "mvcc: duplicate watch ID provided on the WatchStream"
    assert watch.take() == refused
    # The one that has the id goes on.
    side.put(b"k")
    assert {watch.take().watch_id for _ in range(4)} == {0, 1, 2, 3}


def test_fact_26_a_watch_that_cannot_be(side: Any) -> None:
    """An error is one answer: created and canceled at once, as -1; the stream goes on."""
    now = side.revision()
    watch = side.stream("Watch.Watch")
    ask(side, watch, b"b", range_end=side.key(b"a"), watch_id=7)
    refused = created(now, -1)
    refused.canceled = True
    refused.cancel_reason = "mvcc: watcher range is empty"
    assert watch.take() == refused
    ask(side, watch, b"b")
    assert watch.take() == created(now)


def test_fact_26_a_watch_that_is_not_permitted(guarded: Any) -> None:
    """3.5.1 says always the same, with the id that was asked for. pyetcd says why, with -1, as
    from 3.5.6 on (docs/differences.md: why a watch is refused)."""
    denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
    empty = "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"
    for metadata, reason in ((guarded.login("user"), denied), (None, empty)):
        watch = guarded.stream("Watch.Watch", metadata)
        ask(guarded, watch, b"k", watch_id=7)
        answer = watch.take()
        assert answer.created and answer.canceled
        if guarded.is_etcd:
            assert (answer.watch_id, answer.cancel_reason) == (7, denied)
        else:
            assert (answer.watch_id, answer.cancel_reason) == (-1, reason)


def test_fact_27_where_a_watch_starts(side: Any) -> None:
    """At 0 with what comes next, in the past with the history, in the future not before."""
    past = side.put(b"k").header.revision
    now = side.put(b"k").header.revision
    watches = [side.watch(b"k", start_revision=start) for start in (0, past, now + 2)]
    for watch in watches:
        assert watch.take() == created(now)
    next_, history, future = watches
    assert seen(side, history.take()) == [(0, b"k", past), (0, b"k", now)]
    for revision in (now + 1, now + 2, now + 3):
        assert side.put(b"k").header.revision == revision
    for watch, first in ((next_, now + 1), (history, now + 1), (future, now + 2)):
        for revision in range(first, now + 4):
            assert seen(side, watch.take()) == [(0, b"k", revision)]


def test_fact_28_one_revision_is_one_answer(side: Any) -> None:
    """The events of a revision come together, in the order of the changes; a live answer's header
    has their revision, one from the history the current one."""
    ops = [
        rpc.RequestOp(request_put=rpc.PutRequest(key=side.key(name))) for name in (b"c", b"a", b"b")
    ]
    live = side.watch()
    assert live.take().created
    first = side.txn(success=ops).header.revision
    side.put(b"d")
    one = [(0, b"c", first), (0, b"a", first), (0, b"b", first)]
    for events in (one, [(0, b"d", first + 1)]):
        answer = live.take()
        assert seen(side, answer) == events
        assert answer.header.revision == events[0][2]
    late = side.watch(start_revision=first)
    assert late.take() == created(first + 1)
    answer = late.take()
    assert seen(side, answer) == [*one, (0, b"d", first + 1)]
    assert answer.header.revision == first + 1


def test_fact_28_history_comes_in_batches_of_1000_revisions(side: Any) -> None:
    """Who catches up gets at most 1000 revisions in an answer; the header has the current one."""
    revisions = put_many(side, b"k", b"v", 1100)
    now = side.put(b"other").header.revision
    watch = side.watch(b"k", start_revision=revisions[0])
    assert watch.take().created
    batches = [watch.take() for _ in range(2)]
    assert [len(batch.events) for batch in batches] == [1000, 100]
    assert [event.kv.mod_revision for batch in batches for event in batch.events] == revisions
    assert [batch.header.revision for batch in batches] == [now, now]


@pytest.mark.parametrize("is_live", [True, False])
def test_fact_29_the_value_before(side: Any, is_live: bool) -> None:
    """With prev_kv an event has the value of the revision before; a creation has none."""
    start = side.revision() + 1
    watch = side.watch(b"k", prev_kv=True, start_revision=start) if is_live else None
    if watch is not None:
        assert watch.take().created
    side.put(b"k", b"1")
    side.put(b"k", b"2")
    side.delete(b"k")
    side.put(b"k", b"3")
    if watch is None:
        watch = side.watch(b"k", prev_kv=True, start_revision=start)
        assert watch.take().created
    events: list[kv.Event] = []
    while len(events) < 4:
        events += watch.take().events
    first, second, deleted, again = events
    assert not first.HasField("prev_kv") and not again.HasField("prev_kv")
    assert second.prev_kv == first.kv
    assert deleted.prev_kv == second.kv
    assert deleted.type == kv.Event.DELETE


def test_fact_29_the_value_before_was_compacted(side: Any) -> None:
    """A value of before the compacted revision is left out, without an error."""
    side.put(b"k", b"1")
    at = side.put(b"k", b"2").header.revision
    side.put(b"k", b"3")
    side("KV.Compact", revision=at)
    watch = side.watch(b"k", prev_kv=True, start_revision=at)
    assert watch.take().created
    second, third = watch.take().events
    assert not second.HasField("prev_kv")
    assert third.prev_kv.value == b"2"


def test_fact_30_filters(side: Any) -> None:
    """NOPUT and NODELETE leave out events; where nothing is left there is no answer."""
    filters: Any = ([NOPUT], [NODELETE], [NOPUT, NODELETE], [])
    watch = side.stream("Watch.Watch")
    start = side.revision() + 1
    for each in filters:
        ask(side, watch, b"k", filters=each)
        assert watch.take().created
    side.put(b"k")
    side.delete(b"k")
    put, deleted = (0, b"k", start), (1, b"k", start + 1)
    got: dict[int, list[Any]] = {}
    for _ in range(4):
        answer = watch.take()
        got.setdefault(answer.watch_id, []).append(seen(side, answer))
    assert got == {0: [[deleted]], 1: [[put]], 3: [[put], [deleted]]}
    # The same from the history; and the watch that gets nothing is not in the way.
    late = side.stream("Watch.Watch")
    for each in filters:
        ask(side, late, b"k", filters=each, start_revision=start)
    got = {}
    while len(got) < 3:
        answer = late.take()
        if not answer.created:
            got[answer.watch_id] = seen(side, answer)
    assert got == {0: [deleted], 1: [put], 3: [put, deleted]}


def test_fact_31_cancelling(side: Any) -> None:
    """A cancelled watch is told so and gets nothing more; unknown ids and requests are ignored."""
    watch = side.stream("Watch.Watch")
    for _ in range(2):
        ask(side, watch, b"k")
        assert watch.take().created
    now = side.put(b"k").header.revision
    assert {watch.take().watch_id for _ in range(2)} == {0, 1}
    watch.ask(cancel_request=rpc.WatchCancelRequest(watch_id=99))
    watch.ask(cancel_request=rpc.WatchCancelRequest(watch_id=-1))
    watch.ask()
    watch.ask(cancel_request=rpc.WatchCancelRequest(watch_id=1))
    header = {"revision": now}
    assert watch.take() == rpc.WatchResponse(header=header, canceled=True, watch_id=1)
    watch.ask(cancel_request=rpc.WatchCancelRequest(watch_id=1))  # unknown by now
    side.put(b"k")
    assert watch.take().watch_id == 0
    ask_progress(watch)
    assert watch.take().watch_id == -1


def test_fact_31_a_request_that_is_not_known(side: Any) -> None:
    """A request of a kind that the server does not know is ignored, too."""
    watch = side.stream("Watch.Watch")
    later = rpc.WatchRequest.FromString(b"\xa2\x06\x02\x08\x01")  # field 100, a message
    watch.send(later)
    ask(side, watch, b"k")
    assert watch.take() == created(side.revision())


def test_fact_32_progress_when_asked(side: Any) -> None:
    """A progress request is answered with id -1 and the current revision, for the whole stream."""
    watch = side.watch(b"k")
    assert watch.take().created
    now = side.put(b"other").header.revision
    for _ in range(2):
        ask_progress(watch)
        assert watch.take() == rpc.WatchResponse(header={"revision": now}, watch_id=-1)


def test_fact_32_progress_while_a_watch_catches_up(side: Any) -> None:
    """3.5.1 answers at once, events may come after. pyetcd answers no request before the events up
    to it were sent, as from 3.5.8 on (docs/differences.md: progress request)."""
    revisions = put_many(side, b"k", b"v", 50)
    watch = side.watch(b"k", start_revision=revisions[0])
    ask_progress(watch)
    assert watch.take().created
    answers = [watch.take()]
    if side.is_etcd:
        answers.append(watch.take())
        assert sorted(answer.watch_id for answer in answers) == [-1, 0]
    else:
        assert len(answers[0].events) == 50  # then the answer, or none: ask again
        ask_progress(watch)
        assert watch.take().watch_id == -1


def test_fact_32_progress_of_a_stream_without_watches(side: Any) -> None:
    """3.5.1 answers, pyetcd does not, as from 3.5.8 on (docs/differences.md: progress request on
    a stream without watches)."""
    watch = side.stream("Watch.Watch")
    ask_progress(watch)
    now = side.revision()
    if side.is_etcd:
        assert watch.take() == rpc.WatchResponse(header={"revision": now}, watch_id=-1)
    ask(side, watch, b"k")
    assert watch.take() == created(now)


def test_fact_32_notified_of_progress(short: Any) -> None:
    """An idle watch that wants it is notified each interval, without events. (The interval is 10
    minutes; a flag makes it short here.)"""
    start = short.revision()
    watch = short.watch(b"k", progress_notify=True)
    silent = short.watch(b"k")
    assert watch.take() == silent.take() == created(start)
    now = short.put(b"other").header.revision
    note = watch.take()
    while note == rpc.WatchResponse(header={"revision": start}):  # of before the put
        note = watch.take()
    for _ in range(2):
        assert note == rpc.WatchResponse(header={"revision": now})
        note = watch.take()
    short.put(b"k")
    assert seen(short, silent.take()) == [(0, b"k", now + 1)]  # it got nothing before


class Hub:
    """Watch streams over a keyspace in a file, without a server."""

    def __init__(self, folder: Path) -> None:
        self.backend = Backend.open(str(folder / "kv.db"), create=True)
        self.keyspace = Keyspace(self.backend)
        self.hub = self.keyspace.listener = WatchHub(self.keyspace)
        self.stream = WatchStream(self.hub, lambda: None)

    def put(self, key: bytes) -> None:
        leases: Any = None
        apply_put(self.keyspace, leases, rpc.PutRequest(key=key))

    def watch(self, key: bytes, **fields: Any) -> None:
        self.stream.watch(rpc.WatchCreateRequest(key=key, **fields))

    def settle(self) -> None:
        while self.hub.step():
            pass

    def take(self) -> list[Reply]:
        """What has come, without catching up."""
        taken: list[Reply] = []
        while self.stream.has_replies:
            taken += self.stream.take()
        return taken


@pytest.fixture
def hub(tmp_path: Path) -> Any:
    made = Hub(tmp_path)
    yield made
    made.backend.close()


def test_fact_32_who_is_not_notified(hub: Any) -> None:
    """At an interval's end no note goes to who had an event in it, or has not caught up. (When an
    interval ends is given by hand here: a loaded machine's clock must not decide.)"""
    hub.watch(b"k", progress_notify=True)
    hub.take()
    hub.stream.notify_progress()
    (note,) = hub.take()
    assert (note.watch_id, note.revision, note.events.chunks) == (0, 1, ())
    hub.put(b"k")
    hub.stream.notify_progress()
    (event,) = hub.take()
    assert len(event.events.chunks) == 1
    hub.stream.notify_progress()
    assert [(each.revision, each.events.chunks) for each in hub.take()] == [(2, ())]
    hub.watch(b"k", progress_notify=True, start_revision=2)
    hub.take()
    hub.stream.notify_progress()
    assert [each.watch_id for each in hub.take()] == [0]
    hub.settle()
    assert [len(each.events.chunks) for each in hub.take()] == [1]


@pytest.mark.parametrize("fragment", [False, True])
def test_fact_33_fragments(side: Any, fragment: bool) -> None:
    """An answer of 2 MiB (the largest request and 512 KiB) or more goes in pieces to who asked for
    it, all but the last marked; one event is never split."""
    value = bytes(700 * KIB)
    revisions = put_many(side, b"k", value, 4)
    big = side.put(b"k", bytes(1500 * KIB)).header.revision
    for name in (b"small", b"small", b"small"):
        side.put(name)
    watch = side.watch(start_revision=revisions[0], fragment=fragment)
    assert watch.take().created
    whole = [*revisions, big, big + 1, big + 2, big + 3]
    pieces: list[Any] = []
    while not pieces or pieces[-1].events[-1].kv.mod_revision < whole[-1]:
        pieces.append(watch.take())
    got = [[event.kv.mod_revision for event in piece.events] for piece in pieces]
    if fragment:
        assert got == [revisions[:2], revisions[2:], whole[4:]]
        assert [piece.fragment for piece in pieces] == [True, True, False]
        assert all(piece.ByteSize() < 2048 * KIB for piece in pieces)
    else:
        assert got == [whole] and not pieces[0].fragment
    assert {(piece.watch_id, piece.header.revision) for piece in pieces} == {(0, big + 3)}


def wait_for_slow(side: Any, *, there_are: bool) -> None:
    deadline_s = time.monotonic() + 20
    while (side.metric("etcd_debugging_mvcc_slow_watcher_total") > 0) is not there_are:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_fact_34_a_slow_watcher_gets_everything_later(side: Any) -> None:
    """Who does not read is set aside, and then gets every event in order, none twice. (How often
    etcd retries it, each 10 ms, is not to be seen; pyetcd reads it again from the history:
    docs/differences.md: a watcher whose queue is full.)"""
    options = [("grpc.http2.bdp_probe", 0), ("grpc.max_receive_message_length", -1)]
    channel = grpc.insecure_channel(side.endpoint, options)
    watch = side.stream("Watch.Watch", channel=channel)
    ask(side, watch, b"k")
    assert watch.take().created
    wait_for_slow(side, there_are=False)  # of tests before
    revisions = put_many(side, b"k", bytes(64 * KIB), 250)
    wait_for_slow(side, there_are=True)
    got: list[int] = []
    while len(got) < len(revisions):
        got += [event.kv.mod_revision for event in watch.take().events]
    assert got == revisions
    last = side.put(b"k").header.revision
    assert seen(side, watch.take()) == [(0, b"k", last)]
    watch.close()
    channel.close()
    side.delete(b"k")


def test_fact_34_many_that_catch_up(side: Any) -> None:
    """More watchers than are served in one turn (512 each 100 ms) all get their history, once."""
    first = side.put(b"k").header.revision
    watch = side.stream("Watch.Watch")
    for _ in range(600):
        ask(side, watch, b"k", start_revision=first)
    got: list[int] = []
    while len(got) < 600:
        answer = watch.take()
        if not answer.created:
            assert seen(side, answer) == [(0, b"k", first)]
            got.append(answer.watch_id)
    assert sorted(got) == list(range(600))
    side.put(b"k")
    assert sorted(watch.take().watch_id for _ in range(600)) == list(range(600))


def test_fact_34_how_much_waits_for_a_slow_watcher(hub: Any) -> None:
    """The queue of one stream is bounded (in etcd at 128 answers), what is beyond stays in the
    history. (Seen from outside there is a network's buffer besides.)"""
    hub.watch(b"k")
    for _ in range(streams.REPLIES_MAX + 100):
        hub.put(b"k")
    assert hub.stream.is_full and hub.hub.slow == 1
    taken = hub.take()
    assert len(taken) == streams.REPLIES_MAX
    hub.settle()
    rest = hub.take()
    events = [chunk for reply in (*taken, *rest) for chunk in reply.events.chunks]
    assert len(events) == streams.REPLIES_MAX + 100
    assert hub.hub.slow == 0
