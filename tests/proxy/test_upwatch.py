"""Long answers of the cluster in several."""

from pyetcd.proto import kv_pb2 as mvcc
from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.server.proxy.upwatch import PART_BYTES, parts


def answer(*revisions: int, bytes_each: int) -> rpc.WatchResponse:
    value = bytes(bytes_each)
    events = [mvcc.Event(kv=mvcc.KeyValue(mod_revision=one, value=value)) for one in revisions]
    return rpc.WatchResponse(header=rpc.ResponseHeader(revision=99), events=events)


def split(response: rpc.WatchResponse) -> list[list[int]]:
    made = list(parts(response))
    assert all(one.header == response.header for one in made)
    return [[event.kv.mod_revision for event in one.events] for one in made]


def test_parts_end_between_revisions() -> None:
    half = PART_BYTES // 2 + 1
    assert split(answer(1, 2, 3, bytes_each=1)) == [[1, 2, 3]]
    assert split(answer(1, 2, 3, 4, 5, bytes_each=half)) == [[1, 2], [3, 4], [5]]
    assert split(answer(1, 2, 2, 2, 3, bytes_each=half)) == [[1, 2, 2, 2], [3]]
    assert split(answer(7, 7, 7, bytes_each=half)) == [[7, 7, 7]]
    assert split(rpc.WatchResponse(created=True)) == [[]]
