"""Ids, changes of members, learners, the leader's place and versions: facts 54 to 58.

The tests about changes share three members of each program and a learner, and stand in the order
in which the cluster changes: one that fails may take those after it with it.
"""

import contextlib
import hashlib
import json
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from ports import free_ports

from pyetcd.proto import errors
from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.store.members import Health, Member, check_add, decide_cluster_version

TIMING = ("--heartbeat-interval=50", "--election-timeout=500")
NOT_FOUND = (5, "etcdserver: member not found")
URL_EXISTS = (9, "etcdserver: Peer URLs already exists")
TOO_MANY = (9, "etcdserver: too many learner members in cluster")
BAD_URLS = (3, "etcdserver: given member URLs are invalid")
NOT_STARTED = (2, "etcdserver: re-configuration failed due to not enough started members")
UNHEALTHY = (14, "etcdserver: unhealthy cluster")
NOT_READY = (9, "etcdserver: can only promote a learner member which is in sync with leader")
NO_LEARNER = (9, "etcdserver: can only promote a learner member")
FOR_NO_LEARNER = (14, "etcdserver: rpc not supported for learner")
BAD_TRANSFEREE = (9, "etcdserver: bad leader transferee")
HEALTHY_S = 5.0
WAIT_S = 30.0


def until(condition: Any, what: str) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.05)


def some_url() -> str:
    return f"http://127.0.0.1:{free_ports(1)[0]}"


def flag(process: Any, name: str) -> str:
    (value,) = (arg.partition("=")[2] for arg in process.argv if arg.startswith(f"--{name}="))
    return str(value)


def digest(data: bytes) -> int:
    return int.from_bytes(hashlib.sha1(data).digest()[:8], "big")


def listed(side: Any) -> dict[int, Any]:
    return {member.ID: member for member in side.raw("Cluster.MemberList").members}


def change(side: Any, name: str, **fields: Any) -> Any:
    """A change of members. etcd drops one that comes while raft has not yet finished with the one
    before, and its client waits in vain: there is a moment between two, and it is asked again."""
    for _ in range(3):
        time.sleep(0.05)
        answer = side(f"Cluster.Member{name}", timeout=5.0, **fields)
        if not (side.is_etcd and answer == (4, "Deadline Exceeded")):
            break
    return answer


def removed(side: Any, id: int) -> Any:
    return change(side, "Remove", ID=id)


class House:
    """Three members, of which the third was late, and a learner once it is asked for."""

    def __init__(self, machine: Any, program: str, side: Any) -> None:
        self.machine, self.program = machine, program
        self.nodes = machine.cluster(3, *TIMING, program=program)
        self.nodes[2].kill()
        self.late: Any = None
        self.down: list[Any] = []
        self._side = side
        self._sides: dict[str, Any] = {}

    def complete(self) -> None:
        """The third one starts when two have agreed on a version."""
        for node in self.nodes[:2]:
            node.wait_healthy()
        until(lambda: self.version() != "not_decided", "a version")
        self.first_version = self.version()
        self.began_s = time.monotonic()
        self.nodes[2].start()

    def version(self) -> str:
        url = f"http://{self.nodes[0].endpoint}/version"
        with urllib.request.urlopen(url, timeout=WAIT_S) as answer:
            return str(json.load(answer)["etcdcluster"])

    def side(self, node: Any) -> Any:
        if node.endpoint not in self._sides:
            self._sides[node.endpoint] = self._side(self.program, node.endpoint, None)
        return self._sides[node.endpoint]

    def roles(self) -> tuple[Any, list[Any]]:
        """The leader, and the voters that follow and run."""
        running = [node for node in self.nodes if node not in self.down]
        found: list[Any] = []

        def settled() -> bool:
            states = [self.side(node)("Maintenance.Status") for node in running]
            if any(isinstance(state, tuple) for state in states):
                return False
            raw = [self.side(node).raw("Maintenance.Status") for node in running]
            found[:] = [
                node
                for node, state in zip(running, raw, strict=True)
                if state.leader == state.header.member_id
            ]
            return len(found) == 1 and len({state.leader for state in raw}) == 1

        until(settled, "one leader")
        return found[0], [node for node in running if node is not found[0]]

    def leader(self) -> Any:
        return self.side(self.roles()[0])

    def id(self, node: Any) -> int:
        return int(self.side(node).raw("Maintenance.Status").header.member_id)

    def start_late(self, url: str) -> Any:
        """A fourth process for the member that was added with this URL."""
        (client,) = free_ports(1)
        own = ("--name", "--data-dir", "--listen", "--initial", "--advertise")
        argv = [arg for arg in self.nodes[0].argv if not arg.startswith(own)]
        argv += [
            "--name=late",
            f"--data-dir={self.machine.folder / f'{self.program}-late'}",
            f"--listen-client-urls=http://127.0.0.1:{client}",
            f"--advertise-client-urls=http://127.0.0.1:{client}",
            f"--listen-peer-urls={url}",
            f"--initial-advertise-peer-urls={url}",
            f"--initial-cluster={flag(self.nodes[0], 'initial-cluster')},late={url}",
            "--initial-cluster-state=existing",
        ]
        name = f"{self.program}-late"
        self.late = self.machine.process(argv, name=name, client_port=client).start()
        return self.late

    def close(self) -> None:
        for side in self._sides.values():
            side.close()


@pytest.fixture(scope="module")
def houses(
    machine_type: Any, shared_sides: Any, tmp_path_factory: Any
) -> Iterator[dict[str, House]]:
    """Both at once, for what takes time in them takes it once then."""
    machine = machine_type(tmp_path_factory.mktemp("facts-house"))
    with contextlib.ExitStack() as stack:
        stack.callback(machine.close)
        made = {}
        for program, side in shared_sides.items():
            made[program] = House(machine, program, type(side))
            stack.callback(made[program].close)
        for house in made.values():
            house.complete()
        yield made


@pytest.fixture
def house(side: Any, houses: dict[str, House]) -> House:
    return houses[side.program]


# 54: ids


def test_fact_54_ids_of_a_new_cluster(side: Any) -> None:
    """A member's id is made of its peer URLs and the cluster's token, the cluster's id of those of
    its members."""
    example = digest(b"http://127.0.0.1:24032" + b"tok")
    assert f"{example:x}" == "1110940bc63c88be"
    assert f"{digest(example.to_bytes(8, 'big')):x}" == "ee6fa18dc3001814"
    first, second = some_url(), some_url()
    fresh = side.fresh("--initial-cluster-token=tok", *two_urls(side.program, first, second))
    header = fresh.raw("Maintenance.Status").header
    assert header.member_id == digest("".join(sorted((first, second))).encode() + b"tok")
    assert header.cluster_id == digest(header.member_id.to_bytes(8, "big"))


def two_urls(program: str, first: str, second: str) -> tuple[str, ...]:
    """Flags that make one member with two peer URLs; the last one of a kind counts."""
    both = f"{second},{first}"
    return (
        f"--name={program}",
        f"--listen-peer-urls={both}",
        f"--initial-advertise-peer-urls={both}",
        f"--initial-cluster={program}={second},{program}={first}",
    )


def test_fact_54_ids_of_those_who_come_later(side: Any) -> None:
    """They are made of the peer URLs and the second; the same URL in the second of its removal is
    a member that is not found. The cluster's id stays."""
    fresh = side.fresh()
    cluster_id = fresh.raw("Maintenance.Status").header.cluster_id
    url = some_url()
    deadline_s = time.monotonic() + WAIT_S
    while True:
        began_s = int(time.time())
        answer = change(fresh, "Add", peerURLs=[url], isLearner=True)
        if isinstance(answer, tuple):
            assert answer == NOT_FOUND
            break
        seconds = range(began_s, int(time.time()) + 1)
        assert answer.member.ID in {digest(f"{url}{second}".encode()) for second in seconds}
        assert not isinstance(removed(fresh, answer.member.ID), tuple)
        assert time.monotonic() < deadline_s
    assert removed(fresh, 12345) == NOT_FOUND
    assert fresh.raw("Maintenance.Status").header.cluster_id == cluster_id


def test_fact_54_ids_of_a_restored_member(side: Any, machine: Any) -> None:
    """A snapshot brings no ids with it: they are made anew of the flags."""
    side.put(b"k", b"v")
    saved = machine.folder / "saved.db"
    saved.write_bytes(b"".join(piece.blob for piece in side.raw("Maintenance.Snapshot")))
    client, peer = free_ports(2)
    url = f"http://127.0.0.1:{peer}"
    data = f"--data-dir={machine.folder / 'restored'}"
    cluster = ["--name=r", f"--initial-cluster=r={url}", f"--initial-advertise-peer-urls={url}"]
    token = "--initial-cluster-token=tok"
    utl = [machine.etcdutl] if side.is_etcd else [machine.pyetcd, "utl"]
    machine.run(*utl, "snapshot", "restore", str(saved), *cluster, data, token)
    head = [machine.etcd] if side.is_etcd else [machine.pyetcd, "server"]
    clients = [
        f"--{name}-client-urls=http://127.0.0.1:{client}" for name in ("listen", "advertise")
    ]
    argv = [*head, *cluster, *clients, f"--listen-peer-urls={url}", data, token]
    process = machine.process(argv, name="r", client_port=client).start().wait_healthy()
    restored = type(side)(side.program, process.endpoint, side.fresh)
    header = restored.raw("Maintenance.Status").header
    assert header.member_id == digest(url.encode() + b"tok")
    assert header.cluster_id == digest(header.member_id.to_bytes(8, "big"))
    assert restored("KV.Range", key=side.key(b"k")).kvs[0].value == b"v"
    restored.close()


# 58 first: its servers are young


def test_fact_58_the_version_of_a_cluster(house: House, side: Any) -> None:
    """It starts as 3.0.0, and is what every member can run, without a patch, once all are known.
    (Members of several versions: the pure function, for there is one real binary.)"""
    assert house.first_version == "3.0.0"
    until(lambda: house.version() == "3.5.0", "the cluster's version")
    with urllib.request.urlopen(f"http://{house.nodes[0].endpoint}/metrics") as answer:
        text = answer.read().decode()
    shown = [line for line in text.splitlines() if line.startswith("etcd_cluster_version{")]
    assert 'etcd_cluster_version{cluster_version="3.5"} 1' in shown
    assert decide_cluster_version(["3.5.1", "3.4.9", "3.5.33"]) == "3.4.0"
    assert decide_cluster_version(["3.5.1", None]) == ""


def test_fact_58_downgrades(house: House) -> None:
    """A target is exactly one minor lower, and may be said with or without a patch."""
    validate = rpc.DowngradeRequest.VALIDATE
    leader = house.leader()

    def ask(version: str) -> Any:
        return leader("Maintenance.Downgrade", action=validate, version=version)

    for good in ("3.4", "3.4.0"):
        assert ask(good).version == "3.5.0"
    for bad in ("3.3", "3.3.0", "3.6.0", "2.4"):
        assert ask(bad) == (3, "etcdserver: invalid downgrade target version"), bad
    for unreadable in ("", "3", "x.y"):
        assert isinstance(ask(unreadable), tuple), unreadable


# 55 to 57: changes


def test_fact_55_too_few_have_started(side: Any) -> None:
    """One that runs may get a second; that is not a majority of three, nor can the first one go.
    Who has not started has no name."""
    fresh = side.fresh()
    added = change(fresh, "Add", peerURLs=[some_url()])
    assert sorted(member.name for member in added.members) == ["", fresh.process.name]
    assert added.member.name == "" and not added.member.clientURLs
    assert change(fresh, "Add", peerURLs=[some_url()]) == NOT_STARTED
    (first,) = (member.ID for member in added.members if member.name)
    assert removed(fresh, first) == NOT_STARTED


def test_fact_55_all_must_be_connected(house: House) -> None:
    """For five seconds, all those that vote. Later releases, and pyetcd, let a majority of the
    new cluster do (docs/differences.md: member add with one member down)."""
    url = some_url()
    leader = house.leader()
    deadline_s = time.monotonic() + WAIT_S
    while isinstance(added := change(leader, "Add", peerURLs=[url]), tuple):
        assert added == UNHEALTHY and time.monotonic() < deadline_s
        time.sleep(0.05)
    if leader.is_etcd:
        assert time.monotonic() - house.began_s > HEALTHY_S
    # Four vote now, of whom one has not started.
    another = change(leader, "Add", peerURLs=[some_url()])
    if leader.is_etcd:
        assert another == UNHEALTHY
    else:
        assert removed(leader, another.member.ID).members
    assert removed(leader, added.member.ID).members
    four = [Member(n, (f"http://{n}",), False, f"m{n}") for n in range(1, 5)]
    two_down = Health(1, active=frozenset((2,)), steady=frozenset((2,)))
    with pytest.raises(errors.Unhealthy):
        check_add(four, is_learner=False, health=two_down)


def test_fact_55_what_is_refused_by_name(house: House) -> None:
    """A peer URL that a member has, and ids that are unknown or have been removed."""
    leader = house.leader()
    taken = flag(house.nodes[1], "listen-peer-urls")
    id = house.id(house.nodes[0])
    assert change(leader, "Add", peerURLs=[taken]) == URL_EXISTS
    assert change(leader, "Update", ID=id, peerURLs=[taken]) == URL_EXISTS
    added = change(leader, "Add", peerURLs=[some_url()], isLearner=True)
    assert removed(leader, added.member.ID).members
    for gone in (12345, added.member.ID):
        assert removed(leader, gone) == NOT_FOUND
        assert change(leader, "Update", ID=gone, peerURLs=[some_url()]) == NOT_FOUND
        assert change(leader, "Promote", ID=gone) == NOT_FOUND
    assert change(leader, "Promote", ID=id) == NO_LEARNER


def test_fact_55_one_learner(house: House) -> None:
    """There may be one, and it must have nine tenths of the leader's log before it votes. (That
    share is not to be met exactly from outside; a learner that has not started has nothing.)"""
    leader = house.leader()
    url = some_url()
    added = change(leader, "Add", peerURLs=[url], isLearner=True)
    assert added.member.isLearner and len(added.members) == 4
    assert change(leader, "Add", peerURLs=[some_url()], isLearner=True) == TOO_MANY
    for good in ("http://:1", "http://h:99999", "http://h:", "HTTP://h:1", " http://h:1 "):
        assert change(leader, "Add", peerURLs=[good], isLearner=True) == TOO_MANY, good
    for bad in ("http://a b:1", "http://h", "http://h:x", "http://h:1/", "tcp://h:1", "h:1", ""):
        assert change(leader, "Add", peerURLs=[bad], isLearner=True) == BAD_URLS, bad
    assert change(leader, "Promote", ID=added.member.ID) == NOT_READY
    house.start_late(url)
    late = house.side(house.late)
    until(lambda: not isinstance(late("Maintenance.Status"), tuple), "the learner")


def test_fact_56_what_a_learner_serves(house: House) -> None:
    """Status, a range that need not be the newest, and snapshots."""
    late, leader = house.side(house.late), house.leader()
    leader.raw("KV.Put", key=b"k", value=b"v")
    until(lambda: late("KV.Range", key=b"k", serializable=True).count == 1, "the key")
    status = late("Maintenance.Status")
    assert status.isLearner and not leader("Maintenance.Status").isLearner
    assert len(list(late.raw("Maintenance.Snapshot"))) > 1
    calls: list[tuple[str, dict[str, Any]]] = [
        ("KV.Range", {"key": b"k"}),
        ("KV.Put", {"key": b"k"}),
        ("KV.DeleteRange", {"key": b"k"}),
        ("KV.Txn", {}),
        ("KV.Compact", {"revision": 1}),
        ("Lease.LeaseGrant", {"TTL": 60}),
        ("Lease.LeaseRevoke", {"ID": 1}),
        ("Lease.LeaseTimeToLive", {"ID": 1}),
        ("Lease.LeaseLeases", {}),
        ("Cluster.MemberList", {}),
        ("Cluster.MemberAdd", {"peerURLs": [some_url()]}),
        ("Cluster.MemberRemove", {"ID": 1}),
        ("Cluster.MemberPromote", {"ID": 1}),
        ("Maintenance.Alarm", {}),
        ("Maintenance.Defragment", {}),
        ("Maintenance.Hash", {}),
        ("Maintenance.HashKV", {}),
        ("Maintenance.MoveLeader", {"targetID": 1}),
        ("Auth.AuthStatus", {}),
        ("Auth.UserList", {}),
        ("Lock.Unlock", {"key": b"k"}),
        ("Election.Leader", {"name": b"k"}),
    ]
    for name, fields in calls:
        assert late(name, **fields) == FOR_NO_LEARNER, name
    read_only = rpc.TxnRequest(success=[rpc.RequestOp(request_range={"key": b"k"})])
    assert late("KV.Txn", read_only) == FOR_NO_LEARNER
    watch = late.stream("Watch.Watch")
    watch.ask(create_request=rpc.WatchCreateRequest(key=b"k"))
    assert watch.take() == FOR_NO_LEARNER
    keep_alive = late.stream("Lease.LeaseKeepAlive")
    keep_alive.ask(ID=1)
    assert keep_alive.take() == FOR_NO_LEARNER
    late.end_streams()
    service = "/grpc.health.v1.Health/"
    for call in (
        lambda: late.channel.unary_unary(f"{service}Check")(b"", timeout=WAIT_S),
        lambda: list(late.channel.unary_stream(f"{service}Watch")(b"", timeout=WAIT_S)),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            call()
        assert (refused.value.code().value[0], refused.value.details()) == FOR_NO_LEARNER


def test_fact_57_where_the_leader_may_go(house: House) -> None:
    """It is asked itself, and goes to one that votes."""
    node, (follower, _) = house.roles()
    leader = house.side(node)
    target = house.id(follower)
    assert house.side(follower)("Maintenance.MoveLeader", targetID=target) == (
        9,
        "etcdserver: not leader",
    )
    for bad in (12345, house.id(house.late)):
        assert leader("Maintenance.MoveLeader", targetID=bad) == BAD_TRANSFEREE
    assert not isinstance(leader("Maintenance.MoveLeader", targetID=target), tuple)
    assert house.roles()[0] is follower


def test_fact_55_a_learner_that_is_ready(house: House) -> None:
    """It is promoted, and votes."""
    leader, id = house.leader(), house.id(house.late)
    until(lambda: change(leader, "Promote", ID=id) != NOT_READY, "the learner's log")
    assert not listed(leader)[id].isLearner
    assert change(leader, "Promote", ID=id) == NO_LEARNER
    late = house.side(house.late)
    until(lambda: late("KV.Put", key=b"k") != FOR_NO_LEARNER, "the promotion")
    assert removed(leader, id).members
    house.late.kill()


def test_fact_55_who_may_be_removed_when_one_is_down(house: House) -> None:
    """With one of three down only that one: the last two are needed."""
    node, (down, other) = house.roles()
    leader = house.side(node)
    ids = [house.id(each) for each in (down, other)]
    down.kill()
    house.down.append(down)
    assert removed(leader, ids[1]) == UNHEALTHY
    assert removed(leader, house.id(node)) == UNHEALTHY
    assert removed(leader, ids[0]).members
    assert ids[0] not in listed(leader)
