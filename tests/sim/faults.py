"""What goes wrong: each fault is a function of the world, an rng for its parameters, and a member.

A fault says in the log what it does and ends by itself, or when `end_all` is called. The name of
the function is what a shape draws (`Shape.faults`) and what a report counts.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sim.disk import VITAL, PowerLost
from sim.member import SimulatedMember

from pyetcd.raft.types import MsgType
from pyetcd.store import db, failpoints, walscan

if TYPE_CHECKING:
    from sim.world import World

Fault = Callable[["World", random.Random, SimulatedMember], None]

# A member that has just sent one of these has promised something, or has told half of the others.
AMBUSHES = (
    MsgType.APP_RESP, MsgType.VOTE_RESP, MsgType.VOTE_RESP, MsgType.PRE_VOTE_RESP, MsgType.VOTE,
    MsgType.APP, MsgType.HEARTBEAT_RESP, MsgType.READ_INDEX, MsgType.TIMEOUT_NOW,
)  # fmt: skip

# Where a failure is one of the disk, or of a copy; elsewhere only the process ends.
FAILING = frozenset({
    "walBeforeSync", "beforeCommit", "beforeCheckpoint", "snapshotBeforeCopy", "snapshotBeforeKeep",
    "snapshotBeforeInstall", "snapshotBeforeRename", "defragBeforeSlice",
})  # fmt: skip


# The steps of a member that takes a snapshot.
INSTALLING = (
    "raftBeforeSaveSnap", "raftAfterSaveSnap", "raftBeforeApplySnap", "raftAfterApplySnap",
    "snapshotAfterKeep", "snapshotBeforeRename", "snapshotAfterRename", "applyBeforeOpenSnapshot",
)  # fmt: skip


def end_all(world: "World") -> None:
    """From here on nothing goes wrong any more."""
    world.say("world", "all faults end")
    world.network.heal()
    world.network.options.loss = world.loss = 0.0
    world.disarm()
    for member in world.members.values():
        member.disk.repair()
        member.ambush = None
        member.is_ambushed = False
        member.gets_snapshots_twice = False
        member.stall_until_s = member.slow_until_s = 0.0
        if member.process is not None:
            member.process.loop.paused_until_s = 0.0
        world.boot(member)


def kill(world: "World", rng: random.Random, member: SimulatedMember) -> None:
    if member.is_up:
        world.crash(member, power=False, why="")


def flap(world: "World", rng: random.Random, member: SimulatedMember) -> None:
    """It is started and ends again, some times in quick succession."""
    times = rng.randint(3, 8)
    apart_s = rng.choice((0.05, 0.3)) * world.shape.tick_s * world.shape.election_ticks
    world.say(member.name, f"will end {times} times")

    def end() -> None:
        nonlocal times
        times -= 1
        if world.is_healed:
            return
        if member.is_up:
            world.crash(member, power=rng.random() < 0.3, why="once more", down_s=0.01)
        if times:
            world.clock.after(apart_s * (0.5 + rng.random()), end)

    end()


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


def shutdown(world: "World", rng: random.Random, member: SimulatedMember) -> None:
    """SIGTERM: hand over, stop everything in order, start again."""
    process = member.process
    if process is not None and not process.is_stopping:
        process.is_stopping = True
        world.say(member.name, "is told to stop")
        process.loop.call_soon(lambda: process.loop.create_task(process.stop()))


class Failpoint:
    """The process ends, or the place fails, when it comes there for the n-th time."""

    def __init__(self, member: SimulatedMember, name: str, hits: int, kind: str) -> None:
        self.member = member
        self.name = name
        self.left = hits
        self.kind = kind

    def hit(self, name: str, failure: type[Exception]) -> None:
        if name != self.name:
            return
        self.left -= 1
        if self.left != 0:
            return
        if self.kind == "error":
            self.member.disk.failed = f"failpoint {name}"
            raise failure(f"failpoint {name}")
        self.member.disk.is_dead = True
        raise PowerLost(f"failpoint {name}")


def failpoint(world: "World", rng: random.Random, member: SimulatedMember) -> None:
    name = rng.choice(sorted(failpoints.POINTS))
    hits = rng.choice((1, 1, 2, 5, 20))
    kind = "error" if name in FAILING and rng.random() < 0.3 else "panic"
    member.crash_with_power = rng.random() < 0.5
    world.arm(Failpoint(member, name, hits, kind))
    world.say(member.name, f"{kind} at {name}, hit {hits}")


def disk_error(world: "World", rng: random.Random, member: SimulatedMember) -> None:
    """One write, fsync or read fails; the process must end, and what it said must still hold."""
    kind = rng.choice(("write", "sync", "sync", "read"))
    count = rng.randint(1, rng.choice((1, 10, 100)))
    member.disk.fail_in(kind, count, rng)
    world.say(member.name, f"{kind} {count} of its disk will fail")


def disk_full(world: "World", rng: random.Random, member: SimulatedMember) -> None:
    seconds = rng.choice((0.3, 1.0, 4.0))
    disk = member.disk
    if disk.is_full:
        return
    disk.is_full = True
    world.say(member.name, f"its disk is full for {seconds} s")

    def end() -> None:
        disk.is_full = False
        world.say(member.name, "its disk has space again")

    world.clock.after(seconds, end)


def disk_slow(world: "World", rng: random.Random, member: SimulatedMember) -> None:
    shape = world.shape
    member.slow_s = rng.choice((0.1, 0.4, 1.2)) * shape.tick_s * shape.election_ticks
    member.slow_until_s = world.clock.now_s + rng.choice((1.0, 5.0))
    world.say(member.name, f"each fsync takes {member.slow_s:.2f} s more")


def flip(world: "World", rng: random.Random, member: SimulatedMember) -> None:
    """One bit in a file of a running or a stopped member. It must refuse or notice it, or it does
    not matter; in the end the member is replaced. The last commit of the log's -wal is left out:
    damage there cannot be told from a torn write (store/walscan.py)."""
    if not world.may_lose(member):
        return
    stopped = rng.random() < 0.5
    if stopped and member.is_up:
        world.crash(member, power=False, why="to have its disk changed", down_s=0.1)
    folder = Path(member.disk.folder)
    paths = [p for name in sorted(VITAL) if (p := folder / name).exists() and p.stat().st_size]
    if not paths:
        return
    path = rng.choice(paths)
    size = path.stat().st_size
    if path.name == "wal.db-wal":
        size = _last_commit(path)
        if not size:
            return
    offset, bit = rng.randrange(size), rng.randrange(8)
    member.is_flipped = True
    member.disk.flip(str(path), offset, bit)
    world.say(member.name, f"bit {bit} of byte {offset} of {path.name} is flipped")


def _last_commit(path: Path) -> int:
    """Where the frames of the last commit of a -wal file begin; 0 if there is only one."""
    content = path.read_bytes()
    step = walscan.FRAME_HEADER_BYTES + db.PAGE_BYTES
    salts = content[16:24]
    ends = []
    for at in range(walscan.HEADER_BYTES, len(content) - step + 1, step):
        if content[at + 8 : at + 16] != salts:
            break
        if content[at + 4 : at + 8] != b"\0\0\0\0":
            ends.append(at + step)
    return ends[-2] if len(ends) > 1 else 0


def wipe(world: "World", rng: random.Random, member: SimulatedMember) -> None:
    """A member's disk is gone; it is replaced by the manual."""
    if world.may_lose(member):
        world.lose(member, "its disk is gone")


def wall_jump(world: "World", rng: random.Random, member: SimulatedMember) -> None:
    member.wall_skew_s += rng.choice((-1, 1)) * rng.choice((1.0, 60.0, 86400.0, 3e7))
    world.say(member.name, f"its wall clock is wrong by {member.wall_skew_s} s")


def delay(world: "World", rng: random.Random, member: SimulatedMember) -> None:
    """One direction takes longer than the other."""
    shape = world.shape
    seconds = rng.choice((0.1, 0.4, 1.0)) * shape.tick_s * shape.election_ticks
    inward = rng.random() < 0.5
    links = [(id, member.id) if inward else (member.id, id) for id in world.members]
    world.network.lengthen(links, seconds)
    world.say("network", f"{'to' if inward else 'from'} {member.name} it takes {seconds:.2f} s")
    world.clock.after(rng.choice((1.0, 5.0)), lambda: world.network.lengthen(links, 0.0))


def until_snapshot(world: "World", rng: random.Random, member: SimulatedMember) -> None:
    """It is cut off until it cannot be brought up but by a snapshot, then perhaps gets two."""
    if member.process is None or len(world.members) < 3:
        return
    behind = member.process.node.last_index
    end_s = world.clock.now_s + 15.0
    links = [pair for id in world.members for pair in ((member.id, id), (id, member.id))]
    world.say("network", f"{member.name} is alone until it needs a snapshot")
    member.gets_snapshots_twice = rng.random() < 0.5
    ends_at = rng.choice(("", *INSTALLING))

    def look() -> None:
        firsts = [
            each.process.wal.first_index()
            for each in world.members.values()
            if each.process is not None and each is not member
        ]
        done = bool(firsts) and min(firsts) > behind + 1
        if done or world.clock.now_s > end_s or world.is_healed:
            if not world.is_healed:
                world.network.join(links)
                if ends_at and member.is_up and world.failpoint is None:
                    member.crash_with_power = rng.random() < 0.5
                    world.arm(Failpoint(member, ends_at, 1, "panic"))
            world.say("network", f"{member.name} is back{'' if done else ', without that'}")
            return
        world.network.cut(links)
        world.clock.after(0.2, look)

    look()


def lose_quorum(world: "World", rng: random.Random) -> None:
    """All members but one are gone for good; that one goes on with --force-new-cluster."""
    survivor = rng.choice([m for m in world.members.values() if not m.is_removed])
    for member in world.members.values():
        if member is survivor:
            continue
        if member.is_up:
            world.crash(member, power=False, why="for good")
        member.is_removed = True
    power = rng.random() < 0.5
    if survivor.is_up:
        world.crash(survivor, power=power, why="to go on alone", down_s=1e9)
    world.force(survivor)


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
        shutdown,
        failpoint,
        disk_error,
        disk_full,
        disk_slow,
        flip,
        wipe,
        wall_jump,
        delay,
        until_snapshot,
        flap,
    )
}
