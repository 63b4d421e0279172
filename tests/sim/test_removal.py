"""A leader removes itself from a cluster of two, and its word of that is lost at first."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sim.disk import Disks, installed
from sim.shape import tuned
from sim.world import World

from pyetcd.raft.types import ConfChange, ConfChangeType, MsgType


@pytest.fixture
def disks() -> Iterator[Disks]:
    with installed() as disks:
        yield disks


def test_the_other_learns_that_it_is_alone(tmp_path: Path, disks: Disks) -> None:
    def prepare(world: World) -> None:
        shape = world.shape
        shape.members, shape.faults, shape.membership, shape.chaos_s = 2, (), False, 1e9
        shape.tick_s, shape.election_ticks, shape.commit_s = 0.1, 10, (0.0002, 0.001)
        shape.network.loss = shape.network.reordering = shape.network.duplication = 0.0
        shape.network.delay_s = (0.0002, 0.001)

    world = World(1, tmp_path, disks, prepare=prepare)
    try:
        with tuned(world.shape):
            for member in world.members.values():
                world.boot(member)
            world._wait(10.0, world._has_leader, "no leader")
            world._until(world.clock.now_s + 1.0)
            first, second = world.members.values()
            assert first.process is not None and second.process is not None
            leader, other = (first, second) if first.process.node.is_leader else (second, first)
            assert leader.process is not None and other.process is not None
            removal = ConfChange(ConfChangeType.REMOVE_NODE, leader.id)
            leader.process.membership.configure(removal, lambda answer: None)
            leader.process.loop.call_soon(lambda: None)
            # Everything that says so is lost, but the entry itself.
            send = world.network.send
            lost = 0

            def lossy(message):  # type: ignore[no-untyped-def]
                nonlocal lost
                told = message.type in (MsgType.APP, MsgType.HEARTBEAT) and not message.entries
                if told and lost < 2 and leader.process.is_removed:
                    lost += 1
                    return True
                if message.type is MsgType.APP and message.commit >= removal_index():
                    return True
                return send(message)

            def removal_index() -> int:
                log = leader.process.node.raft.log  # type: ignore[union-attr]
                return log.last_index if log.committed >= log.last_index else 1 << 62

            world.network.send = lossy  # type: ignore[method-assign]
            world._until(world.clock.now_s + 8.0)
            assert leader.id in world.removed
            assert other.process.node.is_leader, other.process.node.status()
    finally:
        world.close()
