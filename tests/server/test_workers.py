"""Jobs beside the loop, and what becomes of them at a stop."""

import asyncio
import threading

from pyetcd.proto.errors import EtcdError
from pyetcd.server.workers import Workers


def test_a_job_that_ends_at_the_stop_goes_no_further() -> None:
    """What it would go on with is closed: a checkpoint ended a stopping member as a failed disk."""
    told: list[int | EtcdError] = []
    failed: list[BaseException] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        workers = Workers(loop, failed.append)
        begun, go_on = threading.Event(), threading.Event()

        def job() -> int:
            begun.set()
            go_on.wait()
            return 1

        ended = asyncio.Event()

        def first(answer: int | EtcdError) -> None:
            told.append(answer)
            ended.set()

        workers.run(lambda: 0, first)
        await ended.wait()
        workers.run(job, told.append)
        begun.wait()
        threading.Timer(0.05, go_on.set).start()
        workers.stop()
        for _ in range(10):
            await asyncio.sleep(0.001)

    asyncio.run(run())
    assert told == [0]
    assert failed == []
