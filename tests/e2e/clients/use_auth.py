"""What users of aetcd and etcd-client-py (Rust) do with a name and a password."""

import asyncio
import sys

import aetcd
from etcd_client import Client, ConnectOptions, GRPCStatusError


async def by_aetcd(host: str, port: int) -> None:
    ann = aetcd.Client(host=host, port=port, username="ann", password="pw", timeout=20)
    async with ann as client:
        watch = await client.watch_prefix(b"a/")
        await client.put(b"a/1", b"one")
        async for event in watch:
            assert event.kv.value == b"one"
            break
        await watch.cancel()
        assert (await client.get(b"a/1")).value == b"one"
        try:
            await client.put(b"b", b"two")
        except aetcd.ClientError as error:
            assert "permission denied" in str(error), error
        else:
            raise AssertionError("a put without the right")


async def by_rust(endpoint: str) -> None:
    options = ConnectOptions().with_user("ann", "pw")
    async with Client([endpoint], options).connect() as etcd:
        await etcd.put(b"a/2", b"two")
        assert bytes(await etcd.get(b"a/2")) == b"two"
        try:
            await etcd.put(b"b", b"two")
        except GRPCStatusError as error:
            assert "permission denied" in str(error), error
        else:
            raise AssertionError("a put without the right")


asyncio.run(by_aetcd(sys.argv[1], int(sys.argv[2])))
asyncio.run(by_rust(f"http://{sys.argv[1]}:{sys.argv[2]}"))
print("ok")
