"""A member that has lost acknowledged entries of its log comes back as a learner, by itself.

It must not vote: it could help to elect somebody who has forgotten what was promised. So it asks
the other members, who are a majority without it, to remove it and to add it again as a learner,
puts its data directory aside, and starts anew under the id it was given. As a learner it receives
everything; once it has caught up it asks to be promoted, if it was a voter.

    1 rejoin.json says what is being done        nothing has changed yet
    2 the old id is removed, the same URLs are added as a learner
    3 rejoin.json has the new id and the members
    4 member/ is renamed to member.lost-<n>      nothing is deleted, ever
    5 rejoin.json says so; the member starts, catches up and is promoted
    6 rejoin.json goes

Rules. Every step looks first whether it was done: a crash anywhere is continued by the next start.
A loss that only a leader knew of is written down before anybody is asked: the files look sound.
What is lost is not voted on meanwhile: while rejoin.json is there, the old log is not opened.
Nobody is removed who answers under the lost id: then this directory is a copy of that one's.
Without a majority of other members nothing is done and the start is refused, as it is for a member
that is alone: the first question is a linearizable one.
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from pyetcd.server import logs
from pyetcd.server.config import Config
from pyetcd.server.startup import LogWasLost, StartupRefused

NAME: Final = "rejoin.json"
ASK_TIMEOUT_S: Final = 3.0
# etcd adds nobody until its members have been connected for five seconds.
CHANGE_TIMEOUT_S: Final = 40.0
PAUSE_S: Final = 0.5


class Serve(Protocol):
    """server/member.py: run"""

    def __call__(
        self, config: Config, rejoined: Callable[[], None] | None = None, *, promote: bool = True
    ) -> int: ...


class Refused(Exception):
    """The other members could not be asked, or said no. One line."""


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """A member as the others list it."""

    id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...] = ()


@dataclasses.dataclass(slots=True)
class Plan:
    """rejoin.json"""

    lost_id: int
    reason: str
    peer_urls: list[str]
    endpoints: list[str]
    new_id: int = 0
    cluster: str = ""
    is_moved: bool = False
    was_learner: bool = False  # and stays one


class Cluster:
    """The other members, asked over their client URLs. Raises Refused."""

    def __init__(self, config: Config, endpoints: Sequence[str]) -> None:
        self._config = config
        self._endpoints = endpoints

    def members(self) -> list[Found]:
        from pyetcd.proto import rpc_pb2 as rpc

        request = rpc.MemberListRequest(linearizable=True)
        answer = self._ask("Cluster/MemberList", request, rpc.MemberListResponse)
        return [Found(m.ID, m.name, tuple(m.peerURLs), tuple(m.clientURLs)) for m in answer.members]

    def who_answers(self, client_urls: Sequence[str]) -> int:
        """The id of the member that serves at these URLs, 0 if nobody does."""
        from pyetcd.proto import rpc_pb2 as rpc

        there = Cluster(self._config, client_urls)
        try:
            answer = there._ask("Maintenance/Status", rpc.StatusRequest(), rpc.StatusResponse)
        except Refused:
            return 0
        return int(answer.header.member_id)

    def remove(self, id: int) -> None:
        from pyetcd.proto import rpc_pb2 as rpc

        self._ask("Cluster/MemberRemove", rpc.MemberRemoveRequest(ID=id), rpc.MemberRemoveResponse)

    def add_learner(self, peer_urls: Sequence[str]) -> None:
        from pyetcd.proto import rpc_pb2 as rpc

        request = rpc.MemberAddRequest(peerURLs=peer_urls, isLearner=True)
        self._ask("Cluster/MemberAdd", request, rpc.MemberAddResponse)

    def _ask(self, name: str, request: Any, response: Any) -> Any:
        """The first answer; each step looks at the members first, so it may be asked twice."""
        import grpc

        reason = "no other member has a client URL"
        for endpoint in self._endpoints:
            with self._channel(endpoint) as channel:
                call = channel.unary_unary(
                    f"/etcdserverpb.{name}",
                    request_serializer=lambda message: message.SerializeToString(),
                    response_deserializer=response.FromString,
                )
                try:
                    return call(request, timeout=ASK_TIMEOUT_S)
                except grpc.RpcError as error:
                    reason = f"{endpoint}: {error.details()}"
        raise Refused(reason)

    def _channel(self, endpoint: str) -> Any:
        import grpc

        scheme, _, target = endpoint.partition("://")
        if scheme == "unix":
            return grpc.insecure_channel(f"unix:{target}")
        if scheme == "http":
            return grpc.insecure_channel(target)
        config = self._config
        return grpc.secure_channel(
            target,
            grpc.ssl_channel_credentials(
                _content(config.trusted_ca_file),
                _content(config.client_key_file or config.key_file),
                _content(config.client_cert_file or config.cert_file),
            ),
        )


def serve(
    config: Config, run: Serve, *, cluster: Callable[[Config, Sequence[str]], Any] = Cluster
) -> int:
    """`run`, which may find that the log is lost; then the way back. Raises StartupRefused."""
    path = os.path.join(config.data_dir, NAME)
    plan = _read(path)
    if plan is None:
        try:
            return run(config)
        except LogWasLost as lost:
            if config.force_new_cluster:
                raise
            plan = Plan(
                lost.member_id,
                lost.text,
                list(lost.peer_urls),
                list(lost.client_urls),
                was_learner=lost.is_learner,
            )
            if not lost.is_in_files:
                _write(path, plan)  # whatever the others say: the old log must not vote again
            if not plan.endpoints or not plan.peer_urls:
                raise
            _tell("this member has lost acknowledged log entries: re-joining as a learner", plan)
            try:
                cluster(config, plan.endpoints).members()
            except Refused as error:
                raise StartupRefused(f"{lost.text} (not done by itself: {error})") from error
            _write(path, plan)
    config = _go_on(config, plan, path, cluster(config, plan.endpoints))
    return run(config, lambda: _done(path, plan), promote=not plan.was_learner)


def _go_on(config: Config, plan: Plan, path: str, cluster: Any) -> Config:
    if not plan.cluster:
        try:
            _change_membership(config, plan, cluster)
        except Refused as error:
            raise StartupRefused(
                f"{plan.reason} (re-joining by itself has begun and cannot go on: {error}; start "
                "the member again once the others answer)"
            ) from error
        _write(path, plan)
        _tell("added again as a learner", plan)
    if not plan.is_moved:
        _move_aside(config.data_dir, config.log_dir)
        plan.is_moved = True
        _write(path, plan)
    return dataclasses.replace(
        config, initial_cluster=plan.cluster, initial_cluster_state="existing", discovery=""
    )


def _change_membership(config: Config, plan: Plan, cluster: Any) -> None:
    """Removed and added; tried again for a while, since members must be seen to be connected."""
    deadline_s = time.monotonic() + CHANGE_TIMEOUT_S
    while True:
        try:
            members = cluster.members()
            ours = [m for m in members if set(m.peer_urls) & set(plan.peer_urls)]
            if lost := [m for m in members if m.id == plan.lost_id]:
                if cluster.who_answers(lost[0].client_urls) == plan.lost_id:
                    raise StartupRefused(
                        f"{plan.reason} (member {plan.lost_id:x} is running, at "
                        f"{','.join(lost[0].client_urls)}: this data directory is a copy of its; "
                        "empty it and add a member of its own)"
                    )
                cluster.remove(plan.lost_id)
                _tell("removed from the cluster", plan)
            elif not ours:
                cluster.add_learner(plan.peer_urls)
            elif ours[0].name:
                raise StartupRefused(f"{plan.reason} (its URLs belong to {ours[0].name} now)")
            else:
                plan.new_id = ours[0].id
                plan.cluster = ",".join(
                    f"{config.name if m.id == plan.new_id else f'{m.id:x}'}={url}"
                    for m in members  # by their ids: names may be equal, or empty
                    for url in m.peer_urls
                )
                return
        except Refused:
            if time.monotonic() >= deadline_s:
                raise
            time.sleep(PAUSE_S)


def _move_aside(data_dir: str, wal_dir: str) -> None:
    member = os.path.join(data_dir, "member")
    if not os.path.exists(member):
        return  # done, before a crash
    number = 1
    while os.path.exists(aside := f"{member}.lost-{number}"):
        number += 1
    if wal_dir:  # maybe on another disk: the log stays there, under another name
        for name in ("wal.db", "wal.db-wal", "wal.db-shm"):
            path = os.path.join(wal_dir, name)
            if os.path.exists(path):
                os.rename(path, f"{path}.lost-{number}")
        _sync(wal_dir)
    os.rename(member, aside)
    _sync(data_dir)


def _done(path: str, plan: Plan) -> None:
    """Promoted, or a learner again."""
    os.unlink(path)
    _sync(os.path.dirname(path))
    _tell("re-joined; what was lost lies in member.lost-<n>", plan)


def _tell(msg: str, plan: Plan) -> None:
    logs.get(__name__).error(
        msg,
        lost_member_id=f"{plan.lost_id:x}",
        local_member_id=f"{plan.new_id:x}",
        reason=plan.reason,
    )


def _read(path: str) -> Plan | None:
    try:
        with open(path, encoding="utf-8") as file:
            return Plan(**json.load(file))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, OSError) as error:
        raise StartupRefused(
            f"{path}: cannot be read ({error}); it says how this member re-joins its cluster after "
            "its log was lost: remove the member from the cluster, empty its data directory and "
            "add it again"
        ) from error


def _write(path: str, plan: Plan) -> None:
    temporary = f"{path}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(dataclasses.asdict(plan), file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)
    _sync(os.path.dirname(path))


def _sync(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _content(path: str) -> bytes | None:
    if not path:
        return None
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise Refused(f"open {path}: {(error.strerror or str(error)).lower()}") from error
