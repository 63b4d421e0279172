"""Draws the steps: calls of every service, in everybody's name, and what is done on watch streams.

A drawing knows of the state what it must to stay where both servers should agree, and to go where
something happens: it learns from the answers of real etcd. Rules, each for a row of
docs/differences.md with tests of its own:

- while auth is on, what later 3.5 releases closed is drawn for root only (draw_auth.py);
- while an alarm is set: no second kind of alarm, and nothing by others than root;
- while the store is full: no puts in nested transactions;
- while auth is on, no watch asks for the id of another one;
- no watch from a negative revision; a progress request only on a stream with a watch, and
  with none that starts in the future;
- no member update of a learner, no downgrade but to ask; no HashKV at the compact revision;
- no put that keeps what an earlier delete of its transaction took away.

And what would end the run for both: a second voter that nobody runs; leases that run out.
"""

from dataclasses import dataclass
from typing import Any

from differential import draw_auth, draw_kv
from differential.draw_auth import AUTH, KV, LEASE, MAINTENANCE, NOBODY
from differential.plain import LEASE_LABEL, NO_MEMBER
from differential.sides import CN

from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.services import METHODS

CLUSTER = "/etcdserverpb.Cluster/"
LEASES = [7, 8, 9, -9, 1 << 62]
TTLS_S = [1000, 2000, 5000, 9_000_000_000, 9_000_000_001]
DOWNGRADES = ["3.4.0", "3.5.0", "3.6.0", "3.3.0", "x", "", "3.4"]
STREAMS_MAX, WATCHES_MAX = 5, 10
UNKNOWN = "/etcdserverpb.KV/Unknown"
BAD_URLS = [[], ["foo"], ["http://host"], ["http://127.0.0.1:1/path"], ["ftp://127.0.0.1:1"], [""]]
KV_PATHS = {
    rpc.RangeRequest: "Range",
    rpc.PutRequest: "Put",
    rpc.DeleteRangeRequest: "DeleteRange",
    rpc.TxnRequest: "Txn",
    rpc.CompactionRequest: "Compact",
}
RAW = [
    b"\x0a\xff",
    b"\xff\xff\xff",
    b"\x00\x01",
    b"\x0f",
    b"\x0b",
    b"\x0a\x7f",
    b"\x08" + b"\xff" * 11,
]


@dataclass(slots=True, frozen=True)
class Step:
    """`path` of an RPC, or one of: open, ask, close, big, keepalive."""

    path: str
    request: Any = None
    name: str = NOBODY
    stream: int = 0


class Draw:
    def __init__(self, seed: int, *, common_names: bool) -> None:
        self.kv = draw_kv.Calls(seed)
        self.auth = draw_auth.Calls(seed)
        self.random = self.auth.random = self.kv.random
        self.common_names = common_names
        self.compacted = -1
        self.alarms: set[tuple[int, int]] = set()
        self.given = 0  # leases whose id was chosen by the server
        self.members = 1  # and all that there were
        self.learner = 0  # the label of the one there is
        self.has_moved = False  # the server itself, to other peer URLs
        self.urls = 0
        self.owners: dict[int, str] = {}  # of streams, by their labels
        self.streams: dict[int, set[int]] = {}  # -> the watchers on it that can be cancelled
        # Those that were not ended by a compaction, and from which revision they watch.
        self.live: dict[int, dict[int, int]] = {}
        self.opened = 0

    @property
    def alarm(self) -> int:
        """The kind that is set, or 0."""
        return next(iter(self.alarms))[0] if self.alarms else 0

    # -- in whose name

    @property
    def is_free(self) -> bool:
        """Everything may be asked, by `chief`."""
        return not self.auth.enabled or self.chief != NOBODY

    @property
    def chief(self) -> str:
        if not self.auth.enabled:
            return NOBODY
        if "root" in self.auth.valid:
            return "root"
        return CN + "root" if self.common_names else NOBODY

    def somebody(self) -> str:
        """Also in the name of a certificate."""
        if self.common_names and self.auth.enabled and self.random.random() < 0.4:
            return CN + self.random.choice([user for user in draw_auth.USERS if user])
        return self.auth.name()

    # -- steps

    def next(self) -> Step:
        draw = self.random.random()
        if self.alarm and self.is_free and draw < 0.2:
            return self.disarm()
        if self.auth.enabled and not self.is_free:
            return self.login() if self.alarm or draw < 0.3 else self.judged()
        if self.auth.enabled and not self.alarm and draw < 0.45:
            return self.somebody_logs_in() if draw < 0.04 else self.judged()
        if not (self.auth.enabled or self.alarm) and draw < 0.05:
            return Step(*self.auth.restore())
        draws = [
            (46, self.keys), (9, self.lease), (4, self.keep_alive), (18, self.watch),
            (8, self.users), (4, self.malformed), (7, self.cluster), (2, self.raise_alarm),
            (4, self.maintenance), (2, self.hash), (0.3, self.big),
        ]  # fmt: skip
        (made,) = self.random.choices([f for _, f in draws], [weight for weight, _ in draws])
        return made()

    def somebody_logs_in(self) -> Step:
        """Who has not yet; or a user is made."""
        known = sorted(self.auth.passwords.keys() - self.auth.holders)
        if known:
            return self.login(self.random.choice(known))
        name = self.random.choice(draw_auth.USERS[1:-1])
        request = rpc.AuthUserAddRequest(name=name, password="two")
        return Step(AUTH + "UserAdd", request, self.chief)

    def login(self, user: str = "root") -> Step:
        request = rpc.AuthenticateRequest(name=user, password=self.auth.passwords.get(user, ""))
        return Step(AUTH + "Authenticate", request)

    def judged(self) -> Step:
        """By somebody with some rights, or none."""
        path, request, name = self.drawn_auth()
        if path == draw_auth.WATCH:
            return self.watch_of(name, request)
        if self.common_names and path.startswith(KV) and self.random.random() < 0.4:
            name = self.somebody()
        return Step(path, request, name)

    def users(self) -> Step:
        if self.alarm:
            return self.keys()
        path, request, name = self.drawn_auth()
        return Step(path, request, name) if path.startswith(AUTH) else self.keys()

    def drawn_auth(self) -> tuple[str, Any, str]:
        """Root keeps a password to log in with."""
        path, request, name = self.auth.next()
        if isinstance(request, (rpc.AuthUserAddRequest, rpc.AuthUserChangePasswordRequest)) and (
            request.name == "root"
        ):
            if isinstance(request, rpc.AuthUserAddRequest):
                request.ClearField("options")
            request.password = request.password or "one"
        return path, request, name

    def keys(self) -> Step:
        request = self.kv.next()
        if self.alarm and isinstance(request, rpc.TxnRequest):
            without_nested_puts(request)
        is_late = self.compacted > 1 and self.random.random() < 0.12
        if is_late and isinstance(request, rpc.RangeRequest):
            request.revision = self.compacted - 1
        for put in puts_of(request):
            if self.random.random() < 0.25:
                put.lease = self.random.choice(LEASES)
        return Step(KV + KV_PATHS[type(request)], request, self.chief)

    def malformed(self) -> Step:
        step = self.keys()
        if isinstance(step.request, rpc.CompactionRequest):
            return step
        data = step.request.SerializeToString()
        kind = self.random.randrange(4)
        if kind == 0:
            data = data[: self.random.randint(0, len(data))]
        elif kind == 1:
            data += self.random.choice(RAW)
        elif kind == 2:
            data = self.random.choice(RAW)
        else:
            path = self.random.choice([UNKNOWN, "/etcdserverpb.No/Range", "/v3lockpb.Lock/lock"])
            return Step(path, b"", self.chief)
        if kind == 0:
            whole = type(step.request)()
            try:
                whole.ParseFromString(data)
            except Exception:  # malformed, as it should be
                pass
            else:
                if isinstance(whole, rpc.TxnRequest):
                    draw_kv.survivable(whole)
                data = whole.SerializeToString()
        return Step(step.path, data, self.chief)

    # -- leases

    def lease_id(self) -> int:
        given = range(LEASE_LABEL, LEASE_LABEL + self.given)
        return int(self.random.choice([*LEASES * 2, 404, *given]))

    def lease(self) -> Step:
        draw = self.random.random()
        if draw < 0.4:
            id = self.random.choice([0, *LEASES * 2])
            request: Any = rpc.LeaseGrantRequest(ID=id, TTL=self.random.choice(TTLS_S))
            return Step(LEASE + "LeaseGrant", request, self.chief)
        if draw < 0.55:
            return Step(
                LEASE + "LeaseRevoke", rpc.LeaseRevokeRequest(ID=self.lease_id()), self.chief
            )
        if draw < 0.85:
            request = rpc.LeaseTimeToLiveRequest(
                ID=self.lease_id(), keys=self.random.random() < 0.6
            )
            return Step(LEASE + "LeaseTimeToLive", request, self.chief)
        return Step(LEASE + "LeaseLeases", rpc.LeaseLeasesRequest(), self.chief)

    def keep_alive(self) -> Step:
        return Step("keepalive", self.lease_id(), self.chief)

    # -- watches

    def watch(self) -> Step:
        return self.watch_of(self.chief, None)

    def watch_of(self, name: str, permitted: Any) -> Step:
        """On a stream of that name; `permitted` is a create request where rights are judged."""
        mine = [label for label, owner in self.owners.items() if owner == name]
        draw = self.random.random()
        if not mine or (draw < 0.05 and len(self.owners) < STREAMS_MAX):
            if len(self.owners) >= STREAMS_MAX:
                return Step("close", stream=self.random.choice(sorted(self.owners)))
            self.opened += 1
            return Step("open", name=name, stream=self.opened)
        label = self.random.choice(mine)
        watchers = self.streams[label]
        if permitted is not None and draw < 0.7:
            return Step("ask", self.options_of(permitted.create_request, label), name, label)
        if draw < 0.1:
            return Step("close", stream=label)
        if (draw < 0.3 and watchers) or len(watchers) >= WATCHES_MAX:
            id = self.random.choice([*sorted(watchers) * 3, 404, -1])
            return Step("ask", rpc.WatchRequest(cancel_request={"watch_id": id}), name, label)
        starts = self.live[label].values()
        if draw < 0.4 and starts and max(starts) <= self.kv.revision:
            return Step("ask", rpc.WatchRequest(progress_request={}), name, label)
        if permitted is None and self.is_free and self.chief == name:
            span: Any = {
                "key": self.random.choice(draw_kv.KEYS),
                "range_end": self.random.choice(draw_kv.ENDS),
            }
            return Step("ask", self.options_of(rpc.WatchCreateRequest(**span), label), name, label)
        return self.keys() if self.is_free else self.login()

    def big(self) -> Step:
        if self.alarm:
            return self.keys()
        self.opened += 1
        return Step("big", name=self.chief, stream=self.opened)

    def opened_by(self, label: int, name: str) -> None:
        self.owners[label] = name
        self.streams[label] = set()
        self.live[label] = {}

    def closed(self, label: int) -> None:
        del self.owners[label], self.streams[label], self.live[label]

    def options_of(self, request: rpc.WatchCreateRequest, label: int) -> rpc.WatchRequest:
        draw = self.random
        request.prev_kv = draw.random() < 0.4
        put, delete = rpc.WatchCreateRequest.NOPUT, rpc.WatchCreateRequest.NODELETE
        request.filters[:] = draw.choice([[], [], [], [put], [delete], [put, delete]])
        request.fragment = draw.random() < 0.3
        request.progress_notify = draw.random() < 0.2
        ids = [0, 0, 0, 0, 5, 6, 1000, -7]
        if self.auth.enabled:  # if this one is refused, 3.5.1 tells the watcher of that id no more
            ids = [id for id in [*ids, *range(20, 40)] if id not in self.streams[label]]
        request.watch_id = draw.choice(ids)
        near = self.kv.revision + draw.randint(-40, 8)
        request.start_revision = draw.choice([0, 0, max(0, near), max(0, self.compacted - 1)])
        return rpc.WatchRequest(create_request=request)

    # -- the cluster

    def member_label(self) -> int:
        return int(self.random.choice([NO_MEMBER, 1, *range(1, self.members + 1)]))

    def peer_urls(self) -> list[str]:
        if self.random.random() < 0.4:
            return list(self.random.choice(BAD_URLS))
        if self.random.random() < 0.2:
            return ["PEER"]
        # Never again: a member's id is made of them and the second.
        self.urls += 1
        return ["http://127.0.0.1:1000", f"http://127.0.0.1:{1 + self.urls}"][self.urls % 2 :]

    def cluster(self) -> Step:
        draw, label = self.random.random(), self.member_label()
        if draw < 0.25:
            request: Any = rpc.MemberAddRequest(peerURLs=self.peer_urls(), isLearner=True)
            if request.peerURLs[:1] == (["foo"] if self.has_moved else ["PEER"]):
                request.isLearner = self.random.random() < 0.5  # a voter that is refused
            return Step(CLUSTER + "MemberAdd", request, self.chief)
        if draw < 0.45:
            label = self.learner if self.learner and self.random.random() < 0.5 else label
            return Step(CLUSTER + "MemberRemove", rpc.MemberRemoveRequest(ID=label), self.chief)
        if draw < 0.6:
            if label == self.learner:
                label = 1
            request = rpc.MemberUpdateRequest(ID=label, peerURLs=self.peer_urls())
            return Step(CLUSTER + "MemberUpdate", request, self.chief)
        if draw < 0.7:
            return Step(CLUSTER + "MemberPromote", rpc.MemberPromoteRequest(ID=label), self.chief)
        if draw < 0.8:
            request = rpc.MoveLeaderRequest(targetID=label)
            return Step(MAINTENANCE + "MoveLeader", request, self.chief)
        request = rpc.MemberListRequest(linearizable=self.random.random() < 0.5)
        return Step(CLUSTER + "MemberList", request, self.chief)

    # -- maintenance

    def raise_alarm(self) -> Step:
        kind = self.alarm or self.random.choice([1, 2])
        request = rpc.AlarmRequest(
            action=rpc.AlarmRequest.ACTIVATE,
            memberID=self.random.choice([3, 4]),
            alarm=rpc.AlarmType.Name(self.random.choice([kind, kind, 0])),
        )
        return Step(MAINTENANCE + "Alarm", request, self.chief)

    def disarm(self) -> Step:
        kind = self.random.choice([self.alarm] * 5 + [3 - self.alarm, 0])
        request = rpc.AlarmRequest(
            action=rpc.AlarmRequest.DEACTIVATE,
            memberID=self.random.choice([3, 4, 5]),
            alarm=rpc.AlarmType.Name(kind),
        )
        return Step(MAINTENANCE + "Alarm", request, self.chief)

    def maintenance(self) -> Step:
        kind = self.random.choice(["Alarm", "Alarm", "Status", "Hash", "Downgrade", "Defragment"])
        if kind == "Defragment" and self.random.random() < 0.7:
            return self.keys()
        request: Any = METHODS[MAINTENANCE + kind].request()
        if kind == "Alarm":
            request.alarm = self.random.randrange(3)
        elif kind == "Downgrade":
            request.version = self.random.choice(DOWNGRADES)
        return Step(MAINTENANCE + kind, request, self.chief)

    def hash(self) -> Step:
        revision = self.random.choice([0, self.kv.revision + self.random.randint(-20, 2), -1])
        if revision == self.compacted:
            revision = 0
        return Step(MAINTENANCE + "HashKV", rpc.HashKVRequest(revision=revision), self.chief)

    # -- what came of it

    def learn(self, step: Step, answer: Any) -> None:
        """From a call that real etcd answered without an error."""
        request = step.request
        if step.path.startswith(KV):
            self.kv.revision = max(self.kv.revision, answer.header.revision)
        if isinstance(request, bytes):
            return
        if step.path.startswith(AUTH):
            self.auth.learn(step.path, request, answer)
        elif isinstance(request, rpc.CompactionRequest):
            self.compacted = max(self.compacted, request.revision)
        elif isinstance(request, rpc.LeaseRevokeRequest):
            self.kv.revision = max(self.kv.revision, answer.header.revision)
        elif isinstance(request, rpc.LeaseGrantRequest) and request.ID == 0:
            self.given += 1
        elif isinstance(request, rpc.MemberAddRequest):
            self.learner = answer.member.ID
            self.members = max(self.members, self.learner)
        elif isinstance(request, rpc.MemberUpdateRequest):
            self.has_moved |= request.ID == 1 and list(request.peerURLs) != ["PEER"]
        elif isinstance(request, rpc.AlarmRequest) and request.action:
            changed = {(each.alarm, each.memberID) for each in answer.alarms}
            self.alarms = self.alarms | changed if request.action == 1 else self.alarms - changed
        elif isinstance(request, rpc.MemberRemoveRequest) and self.learner == request.ID:
            self.learner = 0


def puts_of(request: Any) -> Any:
    if isinstance(request, rpc.PutRequest):
        yield request
    elif isinstance(request, rpc.TxnRequest):
        for op in draw_kv.ops_of(request):
            if op.HasField("request_put"):
                yield op.request_put


def without_nested_puts(txn: rpc.TxnRequest) -> None:
    for branch in (txn.success, txn.failure):
        kept = [op for op in branch if not any(puts_of(op.request_txn))]
        del branch[:]
        branch.extend(kept)
