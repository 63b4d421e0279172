"""grpc.health.v1: what the status is during a defragmentation, and who hears of it."""

import asyncio
from typing import Any, cast

from pyetcd.proto.health_pb2 import HealthCheckRequest, HealthCheckResponse
from pyetcd.server.api.health import HealthApi

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


class Stream:
    """A client that watches the server as a whole and reads slowly."""

    closed = False

    def __init__(self) -> None:
        self.told: list[int] = []
        self.reads = asyncio.Event()
        self.reads.set()

    async def request(self) -> HealthCheckRequest:
        return HealthCheckRequest()

    def send(self, payload: bytes) -> None:
        self.told.append(HealthCheckResponse.FromString(payload).status)

    async def drain(self) -> None:
        await self.reads.wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_watch_hears_of_a_defragmentation() -> None:
    async def run() -> None:
        health = HealthApi(asyncio.get_running_loop(), stops_on_defrag=True)
        stream = Stream()
        task = asyncio.ensure_future(health.watch(cast(Any, stream)))
        await settle()
        assert stream.told == [SERVING]
        health.defragmented(None)
        await settle()
        health.defragmented(None)  # a second one at the same time changes nothing
        health.defragmented(0.1)
        await settle()
        assert stream.told == [SERVING, NOT_SERVING] and not health.is_serving
        health.defragmented(0.2)
        await settle()
        assert stream.told == [SERVING, NOT_SERVING, SERVING]
        stream.reads.clear()
        health.defragmented(None)
        await settle()
        health.defragmented(0.1)
        await settle()
        stream.reads.set()
        await settle()
        assert stream.told[-1] == SERVING  # the last word is always heard
        task.cancel()

    asyncio.run(run())


def test_without_the_flag_nothing_changes() -> None:
    async def run() -> None:
        health = HealthApi(asyncio.get_running_loop())
        health.defragmented(None)
        assert health.is_serving

    asyncio.run(run())
