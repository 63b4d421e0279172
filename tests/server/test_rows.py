"""Historic bugs of etcd that show where raft, log and state machine meet (docs/regressions.md)."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pyetcd.proto.auth_pb2 import Permission
from pyetcd.proto.errors import LeaseNotFound
from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest
from pyetcd.proto.rpc_pb2 import (
    AuthEnableRequest,
    AuthRoleAddRequest,
    AuthRoleGrantPermissionRequest,
    AuthUserAddRequest,
    AuthUserGrantRoleRequest,
    AuthUserRevokeRoleRequest,
    CompactionRequest,
    LeaseGrantRequest,
    PutRequest,
)
from pyetcd.raft.rawnode import Config, RawNode
from pyetcd.raft.types import (
    ConfChange,
    ConfChangeType,
    Entry,
    Message,
    MsgType,
    Snapshot,
)
from pyetcd.server import datadir
from pyetcd.server.bootstrap import InitialCluster, Plan, Start, plan_new
from pyetcd.server.chores import Chores
from pyetcd.server.facts import DEFRAGMENT_PAGES, Facts
from pyetcd.server.machine import StateMachine, load_conf_state, read_meta
from pyetcd.server.replica import Replica
from pyetcd.store import snapshot
from pyetcd.store.apply import Applied
from pyetcd.store.compact import hash_kv
from pyetcd.store.lockfile import LockFile
from pyetcd.store.members import Member, encode_member, encode_promotion
from pyetcd.store.verify import verify

FOLLOWER = Member(5, ("http://127.0.0.1:5",), is_learner=True)
ALONE = plan_new(InitialCluster("a", {"a": ("http://127.0.0.1:1",)}, "t", (), is_new=True))
JOINS = Plan(
    Start.JOIN, FOLLOWER.id, ALONE.cluster_id, (*ALONE.members, replace(FOLLOWER, name="b"))
)


class Node:
    """A member without sockets and threads: every step is taken by the test."""

    def __init__(self, folder: Path, planned: Plan) -> None:
        self.folder = str(folder)
        self.plan = planned
        self.sent: list[Message] = []
        self.answers: list[Applied] = []
        self.number = 0
        self.now_s = 0.0
        self.start()

    # What the replica calls

    def send(self, messages: Sequence[Message]) -> None:
        self.sent += messages

    def applied(self, results: list[Applied], index: int) -> None:
        self.answers += results

    def read_states(self, states: Any) -> None: ...

    def soft_state(self, state: Any) -> None: ...

    def snapshot_wanted(self, messages: list[Message]) -> None: ...

    # Life

    def start(self) -> None:
        lock = LockFile.claim(f"{self.folder}/member")
        if datadir.has_member(self.folder):
            self.data = datadir.reopen(self.folder, lock=lock)
        else:
            self.data = datadir.create(self.folder, plan=self.plan, token="t", lock=lock)
        datadir.settle(self.data, load_conf_state(self.data.backend))
        self.machine = StateMachine(
            self.data.backend,
            self.data.wal,
            member_id=self.data.wal.member_id,
            monotonic_s=lambda: self.now_s,
            wall_s=lambda: 0.0,
            lease_ttl_min_s=1,
            quota_bytes=0,
            snapshot_count=1000,
            catchup_entries=10,
            run=lambda job, done: done(job()),
            quiesce=nullcontext,
        )
        self.node = RawNode(
            Config(
                id=self.data.wal.member_id,
                storage=self.data.wal,
                rng=random.Random(1),
                election_ticks=10,
                applied=self.data.backend.applied_index,
            )
        )
        self.replica = Replica(
            node=self.node,
            wal=self.data.wal,
            machine=self.machine,
            transport=self,
            observer=self,
            applied_index=self.data.backend.applied_index,
        )

    def kill(self) -> None:
        """What was not committed to the files is gone; nothing is written by ending."""
        wal = self.data.wal
        self.machine.backend.close()
        if wal._reader is not None:
            wal._reader.close()
        wal._connection.close(True)
        self.data.close()

    def restart(self) -> None:
        self.kill()
        self.start()

    def turn(self) -> bool:
        must_commit = self.replica.begin()
        if must_commit is None:
            return False
        if must_commit:
            self.data.wal.commit()
        self.replica.work()
        self.replica.finish()
        return True

    def settle(self) -> None:
        while self.turn():
            pass

    def lead(self) -> None:
        self.settle()  # nobody campaigns before its configuration is applied
        self.node.campaign()
        self.settle()
        assert self.node.is_leader

    def propose(self, **request: Any) -> None:
        self.number += 1
        data = InternalRaftRequest(header={"ID": self.number}, **request).SerializeToString()
        assert self.replica.propose([data])

    def do(self, **request: Any) -> Any:
        self.propose(**request)
        self.settle()
        assert self.answers[-1].request_id == self.number and self.answers[-1].error is None
        return self.answers[-1].response

    def put(self, key: str, value: bytes = b"v", lease: int = 0) -> int:
        request = PutRequest(key=key.encode(), value=value, lease=lease)
        return int(self.do(put=request).header.revision)

    def hash(self) -> int:
        return hash_kv(self.machine.keyspace, 0).hash

    def configure(self, kind: ConfChangeType, id: int, context: bytes = b"") -> None:
        self.number += 1
        self.node.propose_conf_change(ConfChange(kind, id, context, self.number))
        self.settle()
        assert self.answers[-1].request_id == self.number and self.answers[-1].error is None

    # Snapshots from a leader

    def receive(self, copied: Path, *, commit: bool = True, install: bool = True) -> Snapshot:
        """MsgSnap with the file, up to one of its three steps (store/snapshot.py)."""
        meta = read_meta(str(copied))
        incoming = snapshot.temporary_path(self.machine.backend.path, "received")
        Path(incoming).write_bytes(copied.read_bytes())
        snapshot.keep(incoming, self.machine.backend.path, meta.index)
        found = Snapshot(meta)
        if commit:
            self.step(found)
            assert self.replica.begin() is True
            self.data.wal.commit()
            if install:
                self.replica.work()
                self.replica.finish()
                self.settle()
        return found

    def step(self, received: Snapshot) -> None:
        meta, own = received.meta, self.plan.member_id
        leader = self.plan.peers[0].id
        self.node.step(
            Message(MsgType.SNAP, to=own, from_=leader, term=meta.term, snapshot=received)
        )


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    made: list[Node] = []

    def make(name: str, plan: Plan) -> Node:
        made.append(Node(tmp_path / name, plan))
        return made[-1]

    yield make
    for node in made:
        node.kill()


@pytest.fixture
def leader(make_node: Callable[..., Node]) -> Node:
    """The only voter, with a learner that has nothing yet."""
    node: Node = make_node("leader", ALONE)
    node.lead()
    node.configure(ConfChangeType.ADD_LEARNER_NODE, FOLLOWER.id, encode_member(FOLLOWER))
    return node


@pytest.fixture
def follower(make_node: Callable[..., Node]) -> Node:
    node: Node = make_node("follower", JOINS)
    return node


def copy_of(leader: Node, tmp_path: Path, name: str = "copy") -> Path:
    leader.machine.commit()
    path = tmp_path / name
    snapshot.make(leader.machine.backend.path, str(path))
    return path


def test_row_2_a_single_node_answers_after_its_fsync(leader: Node) -> None:
    """etcd#14370: the only voter counted its entry as committed before it was on the disk."""
    leader.propose(put=PutRequest(key=b"a", value=b"1"))
    answered, commit = len(leader.answers), leader.node.commit
    assert leader.replica.begin() is True
    leader.replica.work()  # runs beside the fsync
    assert (len(leader.answers), leader.node.commit) == (answered, commit)
    leader.restart()
    leader.lead()
    assert leader.machine.revision == 1, "it was not answered, and the disk had not got it"

    leader.propose(put=PutRequest(key=b"a", value=b"2"))
    leader.turn()
    assert leader.node.commit == leader.data.wal.last_index() > leader.replica.applied_index
    leader.restart()  # committed, not yet applied
    leader.lead()
    assert leader.machine.revision == 2


def test_row_4_a_snapshot_in_the_middle_of_a_defragmentation(
    leader: Node, follower: Node, tmp_path: Path
) -> None:
    """etcd#20271: both replaced the file, and the loser's pages were written into the winner's."""
    backend = follower.machine.backend
    backend.execute("CREATE TABLE junk (b)")
    for _ in range(40):
        backend.execute("INSERT INTO junk VALUES (zeroblob(200000))")
    backend.commit()
    backend.execute("DROP TABLE junk")
    backend.commit()
    free_pages = (backend.size_bytes - backend.in_use_bytes) // 4096
    assert free_pages > 3 * DEFRAGMENT_PAGES

    later: list[tuple[Callable[..., None], Any]] = []
    loop = SimpleNamespace(
        call_later=lambda _, function, done: later.append((function, done)), time=lambda: 0.0
    )
    facts = Facts(
        1,
        node=follower.node,
        machine=follower.machine,
        membership=cast(Any, None),
        turns=cast(Any, None),
        reads=cast(Any, None),
        driver=cast(Any, None),
        loop=cast(Any, loop),
    )
    done: list[bool] = []
    facts.defragment(lambda: done.append(True))
    assert later and not done
    for n in range(10):
        leader.put(f"k{n}")
    follower.receive(copy_of(leader, tmp_path))
    while later:
        function, argument = later.pop()
        function(argument)
    assert done
    assert follower.hash() == leader.hash()
    assert backend.query("PRAGMA integrity_check") == [("ok",)]
    assert verify(backend.connection) == []
    follower.restart()
    assert follower.hash() == leader.hash()


@pytest.mark.parametrize("reached", ["kept", "logged", "installed"])
def test_rows_26_31_a_crash_while_a_snapshot_is_installed(
    leader: Node, follower: Node, tmp_path: Path, reached: str
) -> None:
    """etcd PR 13933: the consistent index of the old file went into the new one. PR 11888: the
    order of file, record and release."""
    for n in range(10):
        leader.put(f"k{n}")
    before = (follower.replica.applied_index, follower.machine.revision)
    received = follower.receive(
        copy_of(leader, tmp_path), commit=reached != "kept", install=reached == "installed"
    )
    follower.restart()
    if reached == "kept":  # the log does not know of it: as if it had never come
        assert (follower.replica.applied_index, follower.machine.revision) == before
        assert follower.data.wal.installed_index == 0
    else:
        assert follower.replica.applied_index == received.meta.index
        assert follower.data.backend.log_mark[:2] == (received.meta.index, received.meta.term)
        assert follower.machine.conf_state == received.meta.conf_state
        assert follower.hash() == leader.hash()
        first = received.meta.index + 1
        assert follower.data.wal.first_index() == first
    leftovers = {path.name for path in Path(follower.machine.backend.path).parent.iterdir()}
    assert not {name for name in leftovers if ".tmp-" in name or ".snap-" in name}


def test_row_33_two_snapshots_in_quick_succession(
    leader: Node, follower: Node, tmp_path: Path
) -> None:
    """etcd#18055, open: the second came while the first was being installed, and etcd panicked."""
    leader.put("a")
    first = copy_of(leader, tmp_path, "first")
    leader.put("b")
    leader.do(compaction=CompactionRequest(revision=2))
    second = copy_of(leader, tmp_path, "second")
    follower.receive(first, install=False)  # logged; its installation is under way
    incoming = snapshot.temporary_path(follower.machine.backend.path, "again")
    Path(incoming).write_bytes(second.read_bytes())
    meta = read_meta(str(second))
    snapshot.keep(incoming, follower.machine.backend.path, meta.index)
    follower.step(Snapshot(meta))
    follower.replica.work()
    follower.replica.finish()
    assert follower.replica.applied_index < meta.index
    follower.settle()
    assert follower.replica.applied_index == meta.index
    assert follower.hash() == leader.hash()
    follower.restart()
    assert (follower.replica.applied_index, follower.hash()) == (meta.index, leader.hash())


def test_row_25_leases_of_a_snapshot_are_those_of_the_leader(
    leader: Node, follower: Node, tmp_path: Path
) -> None:
    """etcd PR 13205: after a snapshot leases were left that nobody expired. What is asked of the
    lessor here are its keys and its expiry; with auth on: the next test."""
    leader.do(lease_grant=LeaseGrantRequest(ID=7, TTL=60))
    leader.do(lease_grant=LeaseGrantRequest(ID=8, TTL=60))
    leader.put("a", lease=7)
    leader.put("b", lease=8)
    leader.put("b")
    before = follower.machine.lessor
    follower.receive(copy_of(leader, tmp_path))
    lessor = follower.machine.lessor
    assert lessor is before, "who holds it must not hold an old one"
    assert (lessor.keys(7), lessor.keys(8)) == ([b"a"], [])
    lessor.promote(0)
    follower.now_s = 61.0
    assert sorted(lessor.expired()) == [7, 8]


def auth_state(node: Node) -> Any:
    auth = node.machine.auth
    users = [(name, list(auth.user(name).roles)) for name in auth.users()]
    roles = [(name, auth.role(name).SerializeToString()) for name in auth.roles()]
    return auth.enabled, auth.revision, users, roles


def switch_auth_on(node: Node) -> None:
    """root, and ann who may write [a, b)."""
    for user in ("root", "ann"):
        node.do(auth_user_add=AuthUserAddRequest(name=user))
    node.do(auth_user_grant_role=AuthUserGrantRoleRequest(user="root", role="root"))
    node.do(auth_role_add=AuthRoleAddRequest(name="r"))
    node.do(
        auth_role_grant_permission=AuthRoleGrantPermissionRequest(
            name="r", perm=Permission(permType=Permission.READWRITE, key=b"a", range_end=b"b")
        )
    )
    node.do(auth_user_grant_role=AuthUserGrantRoleRequest(user="ann", role="r"))
    node.do(auth_enable=AuthEnableRequest())


def apply_as(node: Node, user: str, **request: Any) -> str:
    """The error text of an entry in somebody's name that is applied here as the next one."""
    header = {"ID": 9999, "username": user, "auth_revision": node.machine.auth.revision}
    data = InternalRaftRequest(header=header, **request).SerializeToString()
    applied = node.machine.apply(Entry(1, node.machine.applied_index + 1, data=data))
    return "" if applied.error is None else applied.error.text


def test_row_6_auth_after_a_snapshot_is_that_of_the_leader(
    leader: Node, follower: Node, tmp_path: Path
) -> None:
    """etcd#14571: a follower that was restored from a snapshot kept its old rights, and so applied
    what the others refused, or refused what they applied."""
    held = follower.machine.auth
    switch_auth_on(leader)
    follower.machine.tokens.assign("x.1", "ann")  # of a user that it knew before
    for step in range(3):
        follower.receive(copy_of(leader, tmp_path, f"{step}"))
        assert follower.machine.auth is held, "who holds it must not hold an old one"
        assert auth_state(follower) == auth_state(leader)
        assert follower.machine.tokens.user("x.1") is None
        for user, key in (("ann", b"a"), ("ann", b"b"), ("root", b"b"), ("eve", b"a"), ("", b"a")):
            put = PutRequest(key=key, value=b"v")
            wanted = apply_as(leader, user, put=put)
            assert apply_as(follower, user, put=put) == wanted
        assert (follower.hash(), follower.machine.revision) == (
            leader.hash(),
            leader.machine.revision,
        )
        # The rights that both have just merged are of yesterday with the next snapshot.
        if step == 0:
            root = {"username": "root", "auth_revision": leader.machine.auth.revision}
            request = AuthUserRevokeRoleRequest(name="ann", role="r")
            leader.number += 1
            header = {"ID": leader.number, **root}
            data = InternalRaftRequest(header=header, auth_user_revoke_role=request)
            assert leader.replica.propose([data.SerializeToString()])
            leader.settle()
        elif step == 1:
            leader.machine.auth.disable()
        leader.put("c") if step == 1 else None
        follower.machine.commit()
        leader.machine.commit()


def test_row_25_an_expired_lease_is_revoked_while_auth_is_on(leader: Node) -> None:
    """etcd#13975: the leader's own token for it had run out, and the lease stayed. Here the revoke
    is in root's name, without a token."""
    switch_auth_on(leader)
    leader.do(lease_grant=LeaseGrantRequest(ID=-7, TTL=5))  # PR 14239: an odd id
    auth = leader.machine.auth
    assert apply_as(leader, "root", put=PutRequest(key=b"z", lease=-7)) == ""
    proposed: list[InternalRaftRequest] = []
    chores = Chores(
        node=leader.node,
        machine=leader.machine,
        proposer=cast(
            Any, SimpleNamespace(propose_as_leader=lambda request, _: proposed.append(request))
        ),
        reads=cast(Any, None),
        loop=cast(Any, None),
        monotonic_s=lambda: leader.now_s,
        election_timeout_s=1.0,
        versions=cast(Any, None),
        kv_path="",
    )
    chores.promote_lessor()
    leader.now_s += 3600.0  # longer than any token lives
    chores._keep_leases(leader.now_s)
    (revoke,) = proposed
    assert (revoke.header.username, revoke.header.auth_revision) == ("root", auth.revision)
    data = revoke.SerializeToString()
    applied = leader.machine.apply(Entry(1, leader.machine.applied_index + 2, data=data))
    assert applied.error is None
    assert (leader.machine.lessor.get(-7), leader.machine.keyspace.history.get(b"z")) == (
        None,
        None,
    )
    # Without a name it would have stayed.
    assert apply_as(leader, "", lease_revoke=revoke.lease_revoke) == LeaseNotFound.text


def test_row_27_members_are_the_same_after_every_change_restart_and_snapshot(
    make_node: Callable[..., Node], follower: Node, tmp_path: Path
) -> None:
    """etcd#19557: a promotion was written to one of two membership stores, and voters came back as
    learners; PR 20995: removed members came back."""

    leader: Node = make_node("leader", ALONE)
    learner = Member(9, ("http://127.0.0.1:9",), is_learner=True)
    steps: list[tuple[Any, ...]] = [
        (ConfChangeType.ADD_LEARNER_NODE, 9, encode_member(learner)),
        (ConfChangeType.REMOVE_NODE, 9),
        (ConfChangeType.ADD_LEARNER_NODE, 5, encode_member(FOLLOWER)),
        (ConfChangeType.UPDATE_NODE, 5, encode_member(Member(5, ("http://127.0.0.1:6",)))),
        (ConfChangeType.ADD_NODE, 5, encode_promotion(5)),  # the last: now 5 has to answer
    ]
    for number, step in enumerate(steps):
        leader.lead()
        leader.configure(*step)
        members, conf_state = leader.machine.members.all(), leader.machine.conf_state
        assert {m.id for m in members if not m.is_learner} == set(conf_state.voters)
        assert {m.id for m in members if m.is_learner} == set(conf_state.learners)
        is_replayed = number % 2 == 1
        if not is_replayed:
            leader.machine.commit()
        leader.restart()
        if is_replayed:
            leader.lead()
        assert leader.machine.members.all() == members
        assert leader.machine.conf_state == conf_state
        assert leader.machine.members.is_removed(9) is (number >= 1)
    assert set(leader.machine.conf_state.voters) == {leader.plan.member_id, 5}
    follower.receive(copy_of(leader, tmp_path))
    for _ in range(2):
        assert follower.machine.members.all() == leader.machine.members.all()
        assert follower.machine.members.is_removed(9)
        assert follower.machine.conf_state == leader.machine.conf_state
        follower.restart()


def test_row_1_a_crash_after_a_slice_of_a_defragmentation(leader: Node) -> None:
    """A slice begins with a commit of what was applied so far: without its index, a restart
    applied the same entries again."""
    leader.machine.commit()
    revision = leader.put("a")
    leader.machine.defragment_step(DEFRAGMENT_PAGES)
    applied = leader.replica.applied_index
    leader.restart()
    assert leader.replica.applied_index == applied
    leader.lead()
    assert leader.machine.revision == revision
