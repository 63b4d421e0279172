"""Keys with a prefix on the way in, and without it on the way back."""

import pytest

from pyetcd.proto import election_pb2 as election
from pyetcd.proto import kv_pb2 as mvcc
from pyetcd.proto import lock_pb2 as lock
from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.errors import EmptyKey
from pyetcd.server.proxy.namespace import Namespace

NS = Namespace(b"ns/")


def test_none() -> None:
    request = rpc.PutRequest()
    assert Namespace(b"").into(request) is request


@pytest.mark.parametrize(
    ("key", "end", "key_inside", "end_inside"),
    [
        (b"k", b"", b"ns/k", b""),
        (b"k", b"\0", b"ns/k", b"ns0"),
        (b"\0", b"\0", b"ns/\0", b"ns0"),
        (b"a", b"b", b"ns/a", b"ns/b"),
    ],
)
def test_ranges(key: bytes, end: bytes, key_inside: bytes, end_inside: bytes) -> None:
    for type in (rpc.RangeRequest, rpc.DeleteRangeRequest, rpc.WatchCreateRequest):
        given = type(key=key, range_end=end)
        made = NS.into(given)
        assert (made.key, made.range_end) == (key_inside, end_inside) and given.key == key


def test_the_end_of_a_prefix_of_0xff() -> None:
    assert Namespace(b"a\xff").into(rpc.RangeRequest(key=b"k", range_end=b"\0")).range_end == b"b"
    assert Namespace(b"\xff").into(rpc.RangeRequest(key=b"k", range_end=b"\0")).range_end == b"\0"


def test_no_key() -> None:
    for request in (rpc.RangeRequest(), rpc.PutRequest(), rpc.DeleteRangeRequest()):
        with pytest.raises(EmptyKey):
            NS.into(request)
    assert NS.into(rpc.WatchCreateRequest()).key == b"ns/"


def test_transactions() -> None:
    inner = rpc.TxnRequest(failure=[rpc.RequestOp(request_put=rpc.PutRequest(key=b"p"))])
    given = rpc.TxnRequest(
        compare=[rpc.Compare(key=b"c", range_end=b"\0")],
        success=[
            rpc.RequestOp(request_range=rpc.RangeRequest(key=b"r")),
            rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=b"d", range_end=b"e")),
            rpc.RequestOp(request_txn=inner),
            rpc.RequestOp(),
        ],
    )
    made = NS.into(given)
    assert (made.compare[0].key, made.compare[0].range_end) == (b"ns/c", b"ns0")
    assert made.success[0].request_range.key == b"ns/r"
    assert made.success[1].request_delete_range.range_end == b"ns/e"
    assert made.success[2].request_txn.failure[0].request_put.key == b"ns/p"
    pair = mvcc.KeyValue(key=b"ns/k")
    answer = rpc.TxnResponse(
        responses=[
            rpc.ResponseOp(response_range=rpc.RangeResponse(kvs=[pair])),
            rpc.ResponseOp(response_put=rpc.PutResponse(prev_kv=pair)),
            rpc.ResponseOp(response_delete_range=rpc.DeleteRangeResponse(prev_kvs=[pair])),
            rpc.ResponseOp(
                response_txn=rpc.TxnResponse(
                    responses=[rpc.ResponseOp(response_range=rpc.RangeResponse(kvs=[pair]))]
                )
            ),
            rpc.ResponseOp(),
        ]
    )
    bare = NS.outof(answer).responses
    assert bare[0].response_range.kvs[0].key == bare[1].response_put.prev_kv.key == b"k"
    assert bare[2].response_delete_range.prev_kvs[0].key == b"k"
    assert bare[3].response_txn.responses[0].response_range.kvs[0].key == b"k"


def test_leases_locks_and_elections() -> None:
    answer = rpc.LeaseTimeToLiveResponse(keys=[b"ns/a", b"other", b"ns/b"])
    assert list(NS.outof(answer).keys) == [b"a", b"b"]
    assert NS.into(lock.LockRequest(name=b"l")).name == b"ns/l"
    assert NS.outof(lock.LockResponse(key=b"ns/l/1")).key == b"l/1"
    assert NS.into(lock.UnlockRequest(key=b"l/1")).key == b"ns/l/1"
    leader = election.LeaderKey(name=b"ns/e", key=b"ns/e/1")
    bare = NS.outof(election.CampaignResponse(leader=leader)).leader
    assert (bare.name, bare.key) == (b"e", b"e/1")
    for type in (election.ProclaimRequest, election.ResignRequest):
        made = NS.into(type(leader=bare)).leader
        assert (made.name, made.key) == (b"ns/e", b"ns/e/1")
    assert NS.into(election.CampaignRequest(name=b"e")).name == b"ns/e"
    assert NS.outof(election.LeaderResponse(kv=mvcc.KeyValue(key=b"ns/e/1"))).kv.key == b"e/1"


def test_events() -> None:
    pair = mvcc.KeyValue(key=b"ns/k")
    response = rpc.WatchResponse(events=[mvcc.Event(kv=pair, prev_kv=pair), mvcc.Event(kv=pair)])
    NS.strip_events(response)
    assert [event.kv.key for event in response.events] == [b"k", b"k"]
    assert response.events[0].prev_kv.key == b"k" and not response.events[1].HasField("prev_kv")
