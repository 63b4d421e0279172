"""What an etcd-client-py (Rust) user does: put, a range of 10,000 keys, a transaction, a watch,
a kept lease."""

import asyncio
import sys

import grpc
from etcd_client import Client, Compare, CompareOp, Txn, TxnOp, WatchEventType

from pyetcd.proto import rpc_pb2 as rpc


async def main(endpoint: str) -> None:
    client = Client([endpoint])
    async with client.connect() as etcd:
        for start in range(0, 10_000, 100):
            ops = [TxnOp.put(b"rust/r/%05d" % n, b"v%d" % n) for n in range(start, start + 100)]
            await etcd.txn(Txn().and_then(ops))
        pairs = await etcd.get_prefix(b"rust/r/")
        found = [(bytes(key), bytes(value)) for key, value in pairs]
        assert found == [(b"rust/r/%05d" % n, b"v%d" % n) for n in range(10_000)]

        await etcd.put(b"rust/t", b"old")
        compare = [Compare.value(b"rust/t", CompareOp.EQUAL, b"old")]
        done = await etcd.txn(Txn().when(compare).and_then([TxnOp.put(b"rust/t", b"new")]))
        assert done.succeeded() and bytes(await etcd.get(b"rust/t")) == b"new"

        await etcd.lease_grant(60)  # this client does not say which id it got
        lease = only_lease(endpoint)
        await etcd.lease_keep_alive(lease)
        await etcd.lease_time_to_live(lease)
        await etcd.lease_revoke(lease)

        task = asyncio.create_task(first_event(client))
        # The watch starts at "now", whenever that is: put until it has seen one.
        while not task.done():
            await etcd.put(b"rust/w", b"seen")
            await asyncio.sleep(0.02)
        kind, value = task.result()
        assert kind == WatchEventType.PUT and value == b"seen"


def only_lease(endpoint: str) -> int:
    with grpc.insecure_channel(endpoint.removeprefix("http://")) as channel:
        leases = channel.unary_unary(
            "/etcdserverpb.Lease/LeaseLeases",
            request_serializer=rpc.LeaseLeasesRequest.SerializeToString,
            response_deserializer=rpc.LeaseLeasesResponse.FromString,
        )
        return leases(rpc.LeaseLeasesRequest(), timeout=5).leases[0].ID


async def first_event(client: Client) -> tuple[object, bytes]:
    async with client.connect() as etcd:
        async for event in etcd.watch(b"rust/w"):
            return event.event, bytes(event.value)
    raise AssertionError("the watch ended")


asyncio.run(main(sys.argv[1]))
print("ok")
