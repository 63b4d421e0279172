"""Calls to a cluster that is not there."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvloop
from ports import free_port

from pyetcd.proto.errors import Code, EtcdError
from pyetcd.server.proxy import upstream
from pyetcd.server.proxy.settings import Settings
from pyetcd.server.proxy.upstream import Upstream

RANGE = "/etcdserverpb.KV/Range"


def refusal(call: Callable[[Upstream], Awaitable[object]], endpoint: str, **more: int) -> EtcdError:
    async def play() -> EtcdError:
        made = Upstream(Settings(endpoints=(endpoint,), **more))  # type: ignore[arg-type]
        await made.start()
        try:
            with pytest.raises(EtcdError) as caught:
                await call(made)
        finally:
            await made.stop()
        return caught.value

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(play())


def words(endpoint: str) -> str:
    dialing = f"Error while dialing dial tcp {endpoint}: connect: connection refused"
    return f'last connection error: connection error: desc = "transport: {dialing}"'


def test_a_call_waits_and_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "WAIT_S", 0.3)
    endpoint = f"127.0.0.1:{free_port()}"
    failure = refusal(lambda up: up.unary(RANGE, b"", ()), endpoint)
    assert (failure.code, failure.text) == (Code.UNAVAILABLE, words(endpoint))


def test_one_that_does_not_wait() -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    failure = refusal(lambda up: up.unary(RANGE, b"", (), waits=False), f"http://{endpoint}")
    assert (failure.code, failure.text) == (Code.UNAVAILABLE, words(endpoint))


def test_its_own_deadline() -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    failure = refusal(lambda up: up.unary(RANGE, b"", (), timeout_s=0.1), endpoint)
    assert (failure.code, failure.text) == (Code.DEADLINE_EXCEEDED, "context deadline exceeded")


def test_what_is_too_large() -> None:
    call = refusal(lambda up: up.unary(RANGE, bytes(11), ()), "127.0.0.1:1", send_bytes_max=10)
    text = "trying to send message larger than max (11 vs. 10)"
    assert (call.code, call.text) == (Code.RESOURCE_EXHAUSTED, text)
