"""What is refused without a leader, and on a learner."""

import asyncio
from typing import Any, cast

import pytest

from pyetcd.proto.errors import NoLeader, NotSupportedForLearner
from pyetcd.proto.rpc_pb2 import RangeRequest
from pyetcd.server.api.guard import LeaderGuard
from pyetcd.server.wire.grpc import ServerStream


class Call:
    def __init__(self, **metadata: str) -> None:
        self.metadata = metadata
        self.error: tuple[int, str] | None = None
        self.is_served = False

    def fail(self, code: int, text: str) -> None:
        self.error = code, text


def serve(call: Any, request: RangeRequest) -> None:
    call.is_served = True


class World:
    def __init__(self) -> None:
        self.has_leader = True
        self.guard = LeaderGuard(
            lambda: self.has_leader, monotonic_s=lambda: 0.0, election_timeout_s=1.0
        )
        self.handler = self.guard.unary(serve, on_learner=lambda request: request.serializable)

    def call(self, request: RangeRequest | None = None, **metadata: str) -> Call:
        call = Call(**metadata)
        self.handler(call, request or RangeRequest())
        assert call.is_served is (call.error is None)
        return call


def test_only_who_asks_for_a_leader_is_refused_without_one() -> None:
    world = World()
    assert world.call(hasleader="true").is_served
    world.has_leader = False
    assert world.call().is_served and world.call(hasleader="maybe").is_served
    assert world.call(hasleader="true").error == (NoLeader.code, NoLeader.text)


def test_a_learner_serves_what_it_can_alone() -> None:
    world = World()
    world.guard.is_learner = lambda: True
    assert world.call(RangeRequest(serializable=True)).is_served
    refusal = (NotSupportedForLearner.code, NotSupportedForLearner.text)
    assert world.call().error == refusal
    assert world.call(hasleader="true").error == refusal

    async def stream() -> None:
        with world.guard.watch(cast(ServerStream, Call())):
            raise AssertionError

    with pytest.raises(NotSupportedForLearner):
        asyncio.run(stream())
    served = []

    async def snapshot(stream: ServerStream) -> None:
        served.append(stream)

    async def stream_of_learners() -> None:
        await world.guard.stream(snapshot, on_learner=True)(cast(ServerStream, Call()))

    asyncio.run(stream_of_learners())
    assert len(served) == 1
