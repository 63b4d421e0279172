"""What a grpcio user does: put, a range of 10,000 keys, a transaction, a watch, a kept lease."""

import queue
import sys

import grpc

from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.services import METHODS, Kind


class Etcd:
    """One callable per method, made from the method table."""

    def __init__(self, endpoint: str) -> None:
        options = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", 64 << 20)]
        self.channel = grpc.insecure_channel(endpoint, options)

    def __getattr__(self, name: str):
        path = next(path for path in METHODS if path.endswith(f"/{name}"))
        row = METHODS[path]
        make = {
            Kind.UNARY: self.channel.unary_unary,
            Kind.SERVER_STREAM: self.channel.unary_stream,
            Kind.BIDI: self.channel.stream_stream,
        }[row.kind]
        return make(
            path,
            request_serializer=row.request.SerializeToString,
            response_deserializer=row.response.FromString,
        )


def main(endpoint: str) -> None:
    etcd = Etcd(endpoint)
    for start in range(0, 10_000, 100):
        puts = [
            rpc.RequestOp(request_put=rpc.PutRequest(key=b"grpc/r/%05d" % n, value=b"v" * 200))
            for n in range(start, start + 100)
        ]
        etcd.Txn(rpc.TxnRequest(success=puts))
    answer = etcd.Range(rpc.RangeRequest(key=b"grpc/r/", range_end=b"grpc/r0"))
    assert [pair.key for pair in answer.kvs] == [b"grpc/r/%05d" % n for n in range(10_000)]
    assert answer.count == 10_000 and not answer.more
    assert all(pair.value == b"v" * 200 for pair in answer.kvs)

    requests: queue.Queue[rpc.WatchRequest | None] = queue.Queue()
    create = rpc.WatchCreateRequest(key=b"grpc/w", prev_kv=True)
    requests.put(rpc.WatchRequest(create_request=create))
    watch = etcd.Watch(iter(requests.get, None))
    assert next(watch).created
    etcd.Put(rpc.PutRequest(key=b"grpc/w", value=b"1"))
    etcd.Put(rpc.PutRequest(key=b"grpc/w", value=b"2"))
    events = []
    while len(events) < 2:
        events += next(watch).events
    assert [event.kv.value for event in events] == [b"1", b"2"]
    assert events[1].prev_kv.value == b"1"
    requests.put(rpc.WatchRequest(cancel_request=rpc.WatchCancelRequest(watch_id=0)))
    assert next(watch).canceled
    requests.put(None)

    lease = etcd.LeaseGrant(rpc.LeaseGrantRequest(TTL=60))
    etcd.Put(rpc.PutRequest(key=b"grpc/l", value=b"x", lease=lease.ID))
    kept = etcd.LeaseKeepAlive(iter([rpc.LeaseKeepAliveRequest(ID=lease.ID)]))
    assert next(kept).TTL == 60
    live = etcd.LeaseTimeToLive(rpc.LeaseTimeToLiveRequest(ID=lease.ID, keys=True))
    assert live.grantedTTL == 60 and list(live.keys) == [b"grpc/l"]
    etcd.LeaseRevoke(rpc.LeaseRevokeRequest(ID=lease.ID))
    assert etcd.Range(rpc.RangeRequest(key=b"grpc/l")).count == 0
    etcd.channel.close()


main(sys.argv[1])
print("ok")
