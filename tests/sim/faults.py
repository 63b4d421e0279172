"""What goes wrong: each fault is a function of the world, an rng for its parameters, and a member.

A fault says in the log what it does and ends by itself, or when `end_all` is called. The name of
the function is what a shape draws (`Shape.faults`) and what a report counts.
"""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from sim.member import SimulatedMember

from pyetcd.raft.types import MsgType

if TYPE_CHECKING:
    from sim.world import World

Fault = Callable[["World", random.Random, SimulatedMember], None]

# A member that has just sent one of these has promised something, or has told half of the others.
AMBUSHES = (
    MsgType.APP_RESP, MsgType.VOTE_RESP, MsgType.VOTE_RESP, MsgType.PRE_VOTE_RESP, MsgType.VOTE,
    MsgType.APP, MsgType.HEARTBEAT_RESP, MsgType.READ_INDEX, MsgType.TIMEOUT_NOW,
)  # fmt: skip


def end_all(world: "World") -> None:
    """From here on nothing goes wrong any more."""
    world.say("world", "all faults end")
    world.network.heal()
    world.network.options.loss = world.loss = 0.0
    for member in world.members.values():
        member.disk.fuse = 0
        member.ambush = None
        member.is_ambushed = False
        member.stall_until_s = 0.0
        if member.process is not None:
            member.process.loop.paused_until_s = 0.0
        world.boot(member)


def kill(world: "World", rng: random.Random, member: SimulatedMember) -> None:
    if member.is_up:
        world.crash(member, power=False, why="")


def power(world: "World", rng: random.Random, member: SimulatedMember) -> None:
    if member.is_up:
        world.crash(member, power=True, why="")


def power_all(world: "World", rng: random.Random, member: SimulatedMember) -> None:
    for each in world.members.values():
        power(world, rng, each)


def fuse(world: "World", rng: random.Random, member: SimulatedMember) -> None:
    """The crash comes at the n-th change of the disk from now on, wherever that is."""
    changes = rng.choice((1, 3, 10, 30, 100, 300))
    member.crash_with_power = rng.random() < 0.6
    member.disk.blow_in(rng.randint(1, changes))
    world.say(member.name, f"will crash at change {member.disk.fuse}")


def ambush(world: "World", rng: random.Random, member: SimulatedMember) -> None:
    """It crashes just after it has sent a message of this type, and is soon back."""
    member.ambush = rng.choice(AMBUSHES)


def isolate(world: "World", rng: random.Random, member: SimulatedMember) -> None:
    others = [id for id in world.members if id != member.id]
    links = [pair for id in others for pair in ((member.id, id), (id, member.id))]
    _cut(world, rng, links, f"is alone: {member.name}")


def one_way(world: "World", rng: random.Random, member: SimulatedMember) -> None:
    others = [id for id in world.members if id != member.id]
    inward = rng.random() < 0.5
    links = [(id, member.id) if inward else (member.id, id) for id in others]
    _cut(world, rng, links, f"{member.name} is {'deaf' if inward else 'mute'}")


def halves(world: "World", rng: random.Random, member: SimulatedMember) -> None:
    ids = list(world.members)
    rng.shuffle(ids)
    left, right = ids[: len(ids) // 2], ids[len(ids) // 2 :]
    links = [pair for a in left for b in right for pair in ((a, b), (b, a))]
    _cut(world, rng, links, "two halves")


def _cut(world: "World", rng: random.Random, links: list[tuple[int, int]], what: str) -> None:
    world.network.cut(links)
    world.say("network", what)

    def heal() -> None:
        world.network.heal()
        world.say("network", "is whole again")

    world.clock.after(rng.choice((0.2, 2.0, 6.0)) * (0.5 + rng.random()), heal)


def clog(world: "World", rng: random.Random, member: SimulatedMember) -> None:
    seconds = rng.choice((0.3, 1.0, 4.0))
    other = rng.choice(list(world.members))
    world.network.clog([(member.id, other), (other, member.id)], seconds)
    world.say("network", f"a link of {member.name} is clogged for {seconds} s")


def pause(world: "World", rng: random.Random, member: SimulatedMember) -> None:
    seconds = rng.choice((0.1, 1.0, 3.0)) * (0.5 + rng.random())
    if member.process is not None:
        member.process.loop.paused_until_s = world.clock.now_s + seconds
        world.say(member.name, f"is stopped for {seconds:.2f} s")


def stall(world: "World", rng: random.Random, member: SimulatedMember) -> None:
    seconds = rng.choice((0.1, 1.0, 3.0)) * (0.5 + rng.random())
    member.stall_until_s = world.clock.now_s + seconds
    world.say(member.name, f"its disk stalls for {seconds:.2f} s")


def loss(world: "World", rng: random.Random, member: SimulatedMember) -> None:
    world.network.options.loss = rng.choice((0.3, 0.7))
    world.say("network", f"loses {world.network.options.loss:.0%}")

    def end() -> None:
        world.network.options.loss = world.loss

    world.clock.after(1.0 + rng.random() * 2, end)


def transfer(world: "World", rng: random.Random, member: SimulatedMember) -> None:
    target = rng.choice(list(world.members))
    process = member.process
    if process is not None:
        world.say(member.name, f"asks {world.members[target].name} to lead")
        process.loop.call_soon(process.membership.move_leader, target, lambda error: None)


# The order is that in which a seed draws them.
FAULTS: dict[str, Fault] = {
    function.__name__: function
    for function in (
        kill,
        power,
        power_all,
        fuse,
        isolate,
        one_way,
        halves,
        clog,
        pause,
        transfer,
        stall,
        loss,
        ambush,
    )
}
