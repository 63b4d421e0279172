"""What an aetcd user does: put, a range of 10,000 keys, a transaction, a watch, a kept lease."""

import asyncio
import sys

import aetcd


async def main(host: str, port: int) -> None:
    async with aetcd.Client(host=host, port=port, timeout=20) as client:
        watch = await client.watch_prefix(b"aio/w")
        await client.put(b"aio/w/1", b"one")
        async for event in watch:
            assert (event.kv.key, event.kv.value) == (b"aio/w/1", b"one"), event
            break
        await watch.cancel()

        for start in range(0, 10_000, 100):
            await client.transaction(
                compare=[],
                success=[
                    client.transactions.put(b"aio/r/%05d" % n, b"v%d" % n)
                    for n in range(start, start + 100)
                ],
                failure=[],
            )
        pairs = await client.get_prefix(b"aio/r/")
        found = [(pair.key, pair.value) for pair in pairs]
        assert found == [(b"aio/r/%05d" % n, b"v%d" % n) for n in range(10_000)]

        done, answers = await client.transaction(
            compare=[client.transactions.value(b"aio/w/1") == b"one"],
            success=[client.transactions.put(b"aio/t", b"yes")],
            failure=[client.transactions.put(b"aio/t", b"no")],
        )
        assert done and (await client.get(b"aio/t")).value == b"yes", answers

        lease = await client.lease(60)
        await client.put(b"aio/l", b"leased", lease=lease)
        await lease.refresh()
        assert 0 < (await client.get_lease_info(lease.id)).TTL <= 60
        await lease.revoke()
        assert await client.get(b"aio/l") is None


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
print("ok")
