"""Who looks after a cluster while it is used: its members, its space, its copies.

Each is a client like the others, with one call at a time over the same network.
"""

from typing import Any

from sim.checkers import Operation, Violation
from sim.member import Process, SimulatedMember
from sim.workload import Client

from pyetcd.proto.rpc_pb2 import (
    CompactionRequest,
    CompactionResponse,
    DefragmentResponse,
    HashKVRequest,
    HashKVResponse,
    MemberAddRequest,
    MemberAddResponse,
    MemberPromoteRequest,
    MemberPromoteResponse,
    MemberRemoveRequest,
    MemberRemoveResponse,
    MemberUpdateRequest,
    MemberUpdateResponse,
    MoveLeaderRequest,
    MoveLeaderResponse,
)
from pyetcd.server.machine import read_meta
from pyetcd.store import db, snapshot
from pyetcd.store.compact import hash_on
from pyetcd.store.history import SUB_BITS


class Operator(Client):
    """Adds learners and voters, promotes, moves and removes members, one change after another."""

    def __init__(self, world: Any) -> None:
        super().__init__(world, 0)
        self.name = "op"
        self._reads_only = False
        self._kinds = ["add", "promote", "remove", "update"]
        self._weights = [4, 4, 3, 1]
        self._names = world.shape.members

    def next(self) -> None:
        if self.is_stopped:
            return
        voters, learners = self.world.voters, self.world.learners
        kind = self.rng.choices(self._kinds, self._weights)[0]
        if (kind == "add" and len(voters) + len(learners) >= 6) or (
            (kind == "promote" and not learners) or (kind == "remove" and len(voters) < 3)
        ):
            self.world.clock.after(0.5, self.next)
            return
        at = self.rng.choice(list(self.world.members.values()))
        leaders = [m for m in self.world.members.values() if m.process and m.process.node.is_leader]
        if leaders and self.rng.random() < 0.8:
            at = leaders[0]
        op = self.call(kind, at)
        self.world.say("op", f"asks {at.name}: {op.kind} {str(op.request).split()}")

    def answered(self, op: Operation, answer: Any, response: Any) -> None:
        what = answer[1] if isinstance(answer, tuple) else "done"
        self.world.say("op", f"{op.kind}: {what}")
        super().answered(op, answer, response)

    def _add(self) -> tuple[str, Any, Any]:
        self._names += 1
        is_learner = self.rng.random() < 0.7
        request = MemberAddRequest(peerURLs=[f"http://m{self._names}:1"], isLearner=is_learner)
        return "member_add", request, MemberAddResponse

    def _promote(self) -> tuple[str, Any, Any]:
        id = self.rng.choice(sorted(self.world.learners))
        return "member_promote", MemberPromoteRequest(ID=id), MemberPromoteResponse

    def _remove(self) -> tuple[str, Any, Any]:
        id = self.rng.choice(sorted([*self.world.voters, *self.world.learners]))
        return "member_remove", MemberRemoveRequest(ID=id), MemberRemoveResponse

    def _update(self) -> tuple[str, Any, Any]:
        id = self.rng.choice(sorted(self.world.voters))
        name = self.world.members[id].name if id in self.world.members else "nobody"
        request = MemberUpdateRequest(ID=id, peerURLs=[f"http://{name}:1"])
        return "member_update", request, MemberUpdateResponse


class Caretaker(Client):
    """Defragments, hashes, copies, moves the lead, and makes room when there is none.

    Two hashes of one revision and one compact revision are equal, whoever gives them and when.
    """

    def __init__(self, world: Any) -> None:
        super().__init__(world, 0)
        self.name = "care"
        self._reads_only = False
        self._weighted = {"defragment": 3, "hash": 4, "copy": 2, "lead": 1}
        self._pace_s = self.rng.choice((0.05, 0.3, 1.0))
        self._rooms: list[tuple[str, int]] = []  # what is left to do for more space

    def next(self) -> None:
        if self.is_stopped:
            return
        at = self.rng.choice(list(self.world.members.values()))
        if not self._rooms and self.world.history.model.nospace:
            self._rooms = self._make_room()
        if self._rooms and self.rng.random() < 0.7:
            kind, id = self._rooms.pop(0)
            at = self.world.members.get(id, at)
        else:
            kind = self.rng.choices(list(self._weighted), list(self._weighted.values()))[0]
        self.call(kind, at)

    def _make_room(self) -> list[tuple[str, int]]:
        ids = list(self.world.members)
        return [("compact_all", 0), *(("defragment", id) for id in ids), ("disarm", 0)]

    def answered(self, op: Operation, answer: Any, response: Any) -> None:
        failed = isinstance(answer, tuple)
        what = f": {answer[1]}" if failed else ""
        self.world.say(self.name, f"{op.kind} at {op.member}{what}")
        if op.kind == "hash_kv" and not failed:
            found = HashKVResponse.FromString(answer)
            self.world.hashed(op.member, found.hash_revision, found.compact_revision, found.hash)
        super().answered(op, answer, response)

    def think_s(self) -> float:
        return self._pace_s

    def _hash(self) -> tuple[str, Any, Any]:
        model = self.world.history.model
        revision = self.rng.choice((0, max(1, model.revision - self.rng.randint(0, 30))))
        return "hash_kv", HashKVRequest(revision=revision), HashKVResponse

    def _lead(self) -> tuple[str, Any, Any]:
        id = self.rng.choice(list(self.world.members))
        return "move_leader", MoveLeaderRequest(targetID=id), MoveLeaderResponse

    def _copy(self) -> tuple[str, Any, Any]:
        return "copy", self._copied, DefragmentResponse

    def _copied(self, call: Any, process: Process) -> None:
        """As Maintenance.Snapshot makes its copy: it opens, and it is the state of a revision."""
        machine, world = process.machine, self.world
        machine.commit()
        source = machine.backend.path
        target = snapshot.temporary_path(source, "client")

        def job() -> None:
            db.remove_if_exists(target)
            try:
                snapshot.make(source, target)
            except snapshot.SnapshotFailed as error:
                world.say(process.member.name, f"made no copy: {error}")
                return
            with process.member.disk.spared():
                check_copy(world, process.member, target)
            db.remove_if_exists(target)

        process.workers.run(job, lambda _: call.reply(b""))


def check_copy(world: Any, member: SimulatedMember, path: str) -> None:
    """A copy opens, its index and revision belong together, it holds what the model held."""
    meta = read_meta(path)
    reader = db.open_alone(path)
    try:
        found = hash_on(reader, 0)
        newest: dict[bytes, tuple[int, bytes | None]] = {}
        for packed, key, value in reader.execute("SELECT rev, key, value FROM revisions"):
            newest[key] = max(newest.get(key, (0, None)), (packed, value), key=lambda v: v[0])
    finally:
        reader.close()
    history = world.history
    world.hashed(f"a copy of {member.name}", found.revision, found.compact_revision, found.hash)
    if history.revision_by_index.get(meta.index, 1) != found.revision:
        raise Violation("copy", f"of {member.name}: {meta.index} is not revision {found.revision}")
    held = {key: (packed >> SUB_BITS, value)
            for key, (packed, value) in newest.items() if value is not None}  # fmt: skip
    expected = {kv.key: (kv.mod, kv.value)
                for kv in history.model.range(b"\0", b"\0", found.revision)}  # fmt: skip
    if held != expected:
        raise Violation("copy", f"of {member.name} at {found.revision}: {held}, {expected}")


class Compactor(Client):
    """Compacts every 200 ms, at any revision from the last compaction to a little ahead."""

    def __init__(self, world: Any) -> None:
        super().__init__(world, 0)
        self.name = "compact"
        self._reads_only = False
        self._kinds, self._weights = ["compact"], [1]

    def think_s(self) -> float:
        return 0.2

    def _compact(self) -> tuple[str, Any, Any]:
        model = self.world.history.model
        revision = self.rng.randint(max(1, model.compacted), model.revision + 5)
        physical = self.rng.random() < 0.3
        request = CompactionRequest(revision=revision, physical=physical)
        return "compact", request, CompactionResponse


class Replacer(Client):
    """Puts a new member in the place of a lost one: remove, and add with the same peer URL."""

    def __init__(self, world: Any, lost: SimulatedMember) -> None:
        self._lost = lost
        self._url = world.voters.get(lost.id) or world.learners[lost.id]
        super().__init__(world, 0)
        self.name = "replace"
        self._as_learner = self.rng.random() < 0.5

    def next(self) -> None:
        world, id, url = self.world, self._lost.id, self._url
        if id in world.voters or id in world.learners:
            kind = "remove"
        elif url in world.learners.values():
            kind = "promote"
        elif url not in world.voters.values():
            kind = "add"
        else:
            world.replacing = None
            world.replaced_total += 1
            world.say(self.name, f"{url} is a member again")
            return
        op = self.call(kind, self.rng.choice(list(world.members.values())))
        world.say(self.name, f"asks {op.member}: {op.kind}")

    def answered(self, op: Operation, answer: Any, response: Any) -> None:
        what = answer[1] if isinstance(answer, tuple) else "done"
        self.world.say(self.name, f"{op.kind}: {what}")
        super().answered(op, answer, response)

    def think_s(self) -> float:
        return 0.2

    def _remove(self) -> tuple[str, Any, Any]:
        return "member_remove", MemberRemoveRequest(ID=self._lost.id), MemberRemoveResponse

    def _add(self) -> tuple[str, Any, Any]:
        request = MemberAddRequest(peerURLs=[self._url], isLearner=self._as_learner)
        return "member_add", request, MemberAddResponse

    def _promote(self) -> tuple[str, Any, Any]:
        id = next(id for id, url in self.world.learners.items() if url == self._url)
        return "member_promote", MemberPromoteRequest(ID=id), MemberPromoteResponse
