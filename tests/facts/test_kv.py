"""Revisions, keys and ranges: facts 1 to 6 and 13 to 18."""

from typing import Any

import pytest

from pyetcd.proto import kv_pb2 as kv
from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.keys import FROM_KEY, prefix_end

INVALID = 3
NO_KEY = (INVALID, "etcdserver: key is not provided")
NOT_FOUND = (INVALID, "etcdserver: key not found")


def put_op(key: bytes, value: bytes = b"", **fields: Any) -> rpc.RequestOp:
    return rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value, **fields))


def delete_op(key: bytes, **fields: Any) -> rpc.RequestOp:
    return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key, **fields))


def range_op(key: bytes, **fields: Any) -> rpc.RequestOp:
    return rpc.RequestOp(request_range=rpc.RangeRequest(key=key, **fields))


def names(side: Any, answer: Any) -> list[bytes]:
    return [each.key[len(side.prefix) :] for each in answer.kvs]


def test_fact_01_a_fresh_store(side: Any) -> None:
    """A fresh store is at revision 1, its first write is 2, and it was never compacted (-1)."""
    fresh = side.fresh()
    assert fresh.revision() == 1
    assert fresh("Maintenance.HashKV").compact_revision == -1
    assert fresh.put(b"k").header.revision == 2
    assert fresh("Maintenance.HashKV").compact_revision == -1


def test_fact_02_one_revision_for_each_write_request(side: Any) -> None:
    """Every writing request is one revision; a transaction's changes share it, in their order."""
    before = side.put(b"x").header.revision
    a, b, c, x = (side.key(name) for name in (b"a", b"b", b"c", b"x"))
    inner = rpc.TxnRequest(success=[put_op(c)])
    nested = rpc.RequestOp(request_txn=inner)
    answer = side.txn(success=[put_op(b), put_op(a), delete_op(x), nested])
    assert answer.header.revision == before + 1
    watch = side.watch(start_revision=before + 1)
    assert watch.take().created
    events = watch.take().events
    assert [(event.type, event.kv.key) for event in events] == [(0, b), (0, a), (1, x), (0, c)]
    assert {event.kv.mod_revision for event in events} == {before + 1}
    assert side.put(b"d").header.revision == before + 2
    assert side.delete(b"d").header.revision == before + 3


def test_fact_02_what_changes_nothing_has_no_revision(side: Any) -> None:
    """Writes that change nothing, leases without keys, roles and alarms leave the revision."""
    before = side.put(b"here").header.revision
    missing = side.key(b"missing")
    member = side.raw("Maintenance.Status").header.member_id
    alarm = {"memberID": member, "alarm": rpc.NOSPACE}
    lease = side("Lease.LeaseGrant", TTL=600)
    answers = [
        side.delete(b"missing"),
        side.txn(),
        side.txn(success=[delete_op(missing), range_op(missing)]),
        side.txn(failure=[put_op(missing)]),
        lease,
        side("Lease.LeaseRevoke", ID=lease.ID),
        side("Auth.RoleAdd", name="fact"),
        side("Auth.RoleDelete", role="fact"),
        side("Maintenance.Alarm", action=rpc.AlarmRequest.ACTIVATE, **alarm),
        side("Maintenance.Alarm", action=rpc.AlarmRequest.DEACTIVATE, **alarm),
    ]
    assert {answer.header.revision for answer in answers} == {before}
    assert side.revision() == before
    # A lease with keys takes them along: that is a revision.
    lease_id = side("Lease.LeaseGrant", TTL=600).ID
    side.put(b"leased", lease=lease_id)
    assert side("Lease.LeaseRevoke", ID=lease_id).header.revision == before + 2


def test_fact_03_what_a_key_counts(side: Any) -> None:
    """A key's creation and version start again after a delete; a delete tells key and revision."""
    start = side.revision()
    for value in (b"1", b"2"):
        side.put(b"k", value)
    (held,) = side.get(b"k").kvs
    assert (held.create_revision, held.mod_revision, held.version) == (start + 1, start + 2, 2)
    side.delete(b"k")
    side.put(b"k", b"3")
    (held,) = side.get(b"k").kvs
    assert (held.create_revision, held.mod_revision, held.version) == (start + 4, start + 4, 1)
    watch = side.watch(b"k", start_revision=start + 3)
    watch.take()
    event = watch.take().events[0]
    assert event.type == kv.Event.DELETE
    assert event.kv == kv.KeyValue(key=side.key(b"k"), mod_revision=start + 3)


def test_fact_04_a_put_always_writes(side: Any) -> None:
    """The same value is a write, too; without a lease the old one is let go; ignore_* keeps."""
    lease = side("Lease.LeaseGrant", TTL=600).ID

    def held() -> tuple[bytes, int, int]:
        (each,) = side.get(b"k").kvs
        return each.value, each.lease, each.version

    def attached() -> list[bytes]:
        return list(side("Lease.LeaseTimeToLive", ID=lease, keys=True).keys)

    before = side.put(b"k", b"v", lease=lease).header.revision
    assert side.put(b"k", b"v", lease=lease).header.revision == before + 1
    assert (held(), attached()) == ((b"v", lease, 2), [side.key(b"k")])
    side.put(b"k", b"w", ignore_lease=True)
    assert (held(), attached()) == ((b"w", lease, 3), [side.key(b"k")])
    side.put(b"k", ignore_value=True)
    assert (held(), attached()) == ((b"w", 0, 4), [])
    side.put(b"k", ignore_value=True, lease=lease)
    assert (held(), attached()) == ((b"w", lease, 5), [side.key(b"k")])
    side.put(b"k", ignore_value=True, ignore_lease=True)
    assert held() == (b"w", lease, 6)
    side.put(b"k", b"w")
    assert (held(), attached()) == ((b"w", 0, 7), [])
    side("Lease.LeaseRevoke", ID=lease)
    assert side.get(b"k").count == 1


def test_fact_05_ignore_needs_a_key_and_nothing_given(side: Any) -> None:
    """ignore_value and ignore_lease need the key, and go with no value and no lease."""
    before = side.revision()
    key = side.key(b"k")
    empty = rpc.RequestOp()
    kept: list[dict[str, Any]] = [{"ignore_value": True}, {"ignore_lease": True}]
    for fields in kept:
        assert side.put(b"k", **fields) == NOT_FOUND
        assert side.txn(success=[put_op(key, **fields)]) == NOT_FOUND
    assert side.txn(success=[empty]) == side.txn(failure=[empty]) == NOT_FOUND
    given_value = (INVALID, "etcdserver: value is provided")
    given_lease = (INVALID, "etcdserver: lease is provided")
    both = {"ignore_value": True, "ignore_lease": True}
    assert side.put(b"k", b"v", ignore_value=True) == given_value
    assert side.put(b"k", lease=1, ignore_lease=True) == given_lease
    assert side.put(b"k", b"v", lease=1, **both) == given_value
    assert side.txn(success=[put_op(key, b"v", ignore_value=True)]) == given_value
    assert side.txn(failure=[put_op(key, lease=1, ignore_lease=True)]) == given_lease
    assert side.revision() == before


def test_fact_06_the_revision_in_a_header(side: Any) -> None:
    """A write's answer has its own revision, any other the current one, members have none."""
    own = side.put(b"a").header.revision
    assert side.put(b"a").header.revision == own + 1
    assert side.delete(b"a").header.revision == own + 2
    assert side.txn(success=[put_op(side.key(b"b"))]).header.revision == own + 3
    now = own + 3
    assert side.get(b"a", revision=own).header.revision == now
    assert side("KV.Compact", revision=own).header.revision == now
    lease = side("Lease.LeaseGrant", TTL=600)
    seen = [
        lease,
        side("Lease.LeaseTimeToLive", ID=lease.ID),
        side("Lease.LeaseLeases"),
        side("Lease.LeaseRevoke", ID=lease.ID),
        side("Auth.AuthStatus"),
        side("Auth.UserList"),
        side("Maintenance.Alarm"),
        side("Maintenance.Status"),
    ]
    assert [answer.header.revision for answer in seen] == [now] * len(seen)


def test_fact_06_members_headers_have_no_revision(side: Any) -> None:
    """Changes of members answer without a revision, MoveLeader and Defragment without a header."""
    learner = {"peerURLs": ["http://127.0.0.1:1"], "isLearner": True}
    added = side.raw("Cluster.MemberAdd", **learner)
    me = added.header.member_id
    (own,) = (each for each in added.members if me == each.ID)
    # etcd drops a change that comes before raft is done with the last one: a put waits for that.
    side.put(b"k")
    updated = side.raw("Cluster.MemberUpdate", ID=me, peerURLs=own.peerURLs)
    side.put(b"k")
    removed = side.raw("Cluster.MemberRemove", ID=added.member.ID)
    answers = [added, updated, removed, side.raw("Cluster.MemberList")]
    for answer in answers:
        assert answer.header.revision == 0
        assert answer.header.cluster_id and answer.header.member_id and answer.header.raft_term
    assert not side.raw("Maintenance.MoveLeader", targetID=me).HasField("header")
    assert not side.raw("Maintenance.Defragment").HasField("header")


def test_fact_13_an_empty_key(side: Any) -> None:
    """No key is an error for reads, writes and compares; a watch takes it for the smallest one."""
    assert side("KV.Range", range_end=b"z") == NO_KEY
    assert side("KV.Put", value=b"v") == NO_KEY
    assert side("KV.DeleteRange", range_end=FROM_KEY) == NO_KEY
    assert side.txn(compare=[rpc.Compare(version=0)]) == NO_KEY
    for op in (range_op(b""), put_op(b""), delete_op(b"")):
        assert side.txn(success=[op]) == side.txn(failure=[op]) == NO_KEY
    watch = side.stream("Watch.Watch")
    watch.ask(create_request=rpc.WatchCreateRequest())
    assert watch.take().created
    side.put(b"another")
    side("KV.Put", key=b"\0")
    assert [event.kv.key for event in watch.take().events] == [b"\0"]
    side("KV.DeleteRange", key=b"\0")
    watch.close()
    watch = side.stream("Watch.Watch")
    watch.ask(create_request=rpc.WatchCreateRequest(range_end=FROM_KEY))
    assert watch.take().created
    side.put(b"another")
    assert [event.kv.key for event in watch.take().events] == [side.key(b"another")]


def test_fact_14_what_a_range_end_means(side: Any) -> None:
    """No end is one key, a zero byte is "and all after it", an end at or before the key nothing."""
    held = [b"a", b"b", b"b\0", b"c"]
    for name in reversed(held):
        side.put(name)

    def asked(name: bytes, end: bytes) -> list[bytes]:
        answer = side("KV.Range", key=side.key(name), range_end=end)
        found = [each.key for each in answer.kvs]
        assert (answer.count, answer.more) == (len(found), False)
        return [key[len(side.prefix) :] for key in found if key.startswith(side.prefix)]

    assert asked(b"b", b"") == [b"b"]
    assert asked(b"b", FROM_KEY) == [b"b", b"b\0", b"c"]
    assert asked(b"b", side.key(b"c")) == [b"b", b"b\0"]
    assert asked(b"c", side.key(b"b")) == asked(b"b", side.key(b"b")) == []
    whole = side("KV.Range", key=b"\0", range_end=FROM_KEY, keys_only=True)
    assert {side.key(name) for name in held} <= {each.key for each in whole.kvs}
    nothing = side("KV.DeleteRange", key=side.key(b"c"), range_end=side.key(b"a"))
    assert nothing.deleted == 0


def test_fact_14_the_end_of_a_prefix(side: Any) -> None:
    """A prefix ends where its last byte below 0xff is one more; without such a byte nowhere."""
    assert prefix_end(b"a") == b"b"
    assert prefix_end(b"a\xff\xff") == b"b"
    assert prefix_end(b"\xff\xff") == prefix_end(b"") == FROM_KEY
    for name in (b"a\xfe", b"a\xff", b"a\xff\xff", b"a\xff\0", b"b"):
        side.put(name)
    end = prefix_end(side.key(b"a\xff"))
    assert end == side.key(b"b")
    answer = side("KV.Range", key=side.key(b"a\xff"), range_end=end)
    assert names(side, answer) == [b"a\xff", b"a\xff\0", b"a\xff\xff"]


def test_fact_15_count_and_more(side: Any) -> None:
    """Count is of all keys there, before limit and filters; more says that the limit cut."""
    first = side.put(b"a").header.revision
    side.put(b"b")
    side.put(b"c")
    for revision, total in ((0, 3), (-1, 3), (first + 1, 2)):
        answer = side.get_all(revision=revision, limit=1)
        assert (names(side, answer), answer.count, answer.more) == ([b"a"], total, True)
        answer = side.get_all(revision=revision, max_mod_revision=first)
        assert (names(side, answer), answer.count, answer.more) == ([b"a"], total, False)
        answer = side.get_all(revision=revision, limit=total)
        assert (answer.count, answer.more) == (total, False)
        answer = side.get_all(
            revision=revision, limit=1, max_mod_revision=first, min_create_revision=first + 9,
            count_only=True,
        )  # fmt: skip
        assert (len(answer.kvs), answer.count, answer.more) == (0, total, False)
    for limit in (0, -1, 2**63 - 1):
        answer = side.get_all(limit=limit)
        assert (names(side, answer), answer.more) == ([b"a", b"b", b"c"], False)


def test_fact_16_filters_by_revision(side: Any) -> None:
    """Lowest and highest revisions are filters over everything; the limit comes after them."""
    first = side.put(b"a").header.revision  # a: made at first, changed at first + 3
    for name in (b"b", b"c", b"a"):
        side.put(name)
    answer = side.get_all(min_mod_revision=first + 1, limit=2)
    assert (names(side, answer), answer.count, answer.more) == ([b"a", b"b"], 3, True)
    answer = side.get_all(max_mod_revision=first + 2, limit=2)
    assert (names(side, answer), answer.count, answer.more) == ([b"b", b"c"], 3, False)
    answer = side.get_all(max_create_revision=first + 1, min_mod_revision=first + 1)
    assert names(side, answer) == [b"a", b"b"]
    assert names(side, side.get_all(min_create_revision=first + 2)) == [b"c"]
    assert names(side, side.get_all(max_create_revision=first)) == [b"a"]
    answer = side.get_all(min_mod_revision=first + 9)
    assert (names(side, answer), answer.count) == ([], 3)


KEY, VERSION, CREATE, MOD, VALUE = range(5)
NONE, ASCEND, DESCEND = range(3)


def test_fact_17_the_order_of_a_range(side: Any) -> None:
    """Sorted by what is asked; without an order ascending, but then the limit cuts before."""
    for name, value in ((b"b", b"3"), (b"a", b"2"), (b"c", b"1"), (b"b", b"0")):
        side.put(name, value)
    for target, order, limit, expected in (
        (KEY, NONE, 0, b"abc"),
        (KEY, ASCEND, 0, b"abc"),
        (KEY, DESCEND, 0, b"cba"),
        (KEY, DESCEND, 1, b"c"),
        (CREATE, NONE, 0, b"bac"),
        (MOD, NONE, 0, b"acb"),
        (VALUE, NONE, 0, b"bca"),
        (VERSION, NONE, 0, b"acb"),
        (VERSION, DESCEND, 1, b"b"),
        # a and b are taken, sorted, and cut; c never takes part.
        (VALUE, NONE, 1, b"b"),
        (MOD, NONE, 1, b"a"),
        (CREATE, NONE, 1, b"b"),
        (VALUE, NONE, 2, b"bc"),
        (VALUE, ASCEND, 2, b"bc"),
        (CREATE, DESCEND, 1, b"c"),
        (MOD, ASCEND, 2, b"ac"),
    ):
        answer = side.get_all(sort_target=target, sort_order=order, limit=limit)
        assert b"".join(names(side, answer)) == expected, (target, order, limit)
        assert (answer.count, answer.more) == (3, 0 < limit < 3)


def test_fact_17_the_limit_cuts_one_more_before(side: Any) -> None:
    """Without an order limit + 1 keys are sorted: the last of them may come first, the rest not."""
    for name, value in ((b"a", b"3"), (b"b", b"2"), (b"c", b"1"), (b"d", b"0")):
        side.put(name, value)
    answer = side.get_all(sort_target=VALUE, limit=2)
    assert (names(side, answer), answer.more) == ([b"c", b"b"], True)
    answer = side.get_all(sort_target=VALUE, sort_order=ASCEND, limit=2)
    assert (names(side, answer), answer.more) == ([b"d", b"c"], True)


def test_fact_18_keys_only(side: Any) -> None:
    """Keys only leaves the value out and nothing else."""
    lease = side("Lease.LeaseGrant", TTL=600).ID
    side.put(b"k", b"v", lease=lease)
    side.put(b"k", b"v", lease=lease)
    (whole,) = side.get(b"k").kvs
    assert (whole.lease, whole.version) == (lease, 2)
    whole.value = b""
    for fields in ({}, {"sort_target": VALUE}, {"limit": 1}, {"revision": whole.mod_revision}):
        assert list(side.get(b"k", keys_only=True, **fields).kvs) == [whole]
    side("Lease.LeaseRevoke", ID=lease)


@pytest.mark.parametrize("target", [KEY, VALUE])
def test_fact_18_an_unknown_order(side: Any, target: int) -> None:
    """etcd 3.5.1 ignores an unknown sort order. pyetcd refuses it, as 3.6 (docs/differences.md:
    unknown sort target or order)."""
    side.put(b"a", b"1")
    side.put(b"b", b"0")
    answer = side.get_all(sort_order=9, sort_target=target)
    if side.is_etcd:
        assert names(side, answer) == [b"a", b"b"]
    else:
        assert answer == (INVALID, "etcdserver: invalid sort option")
