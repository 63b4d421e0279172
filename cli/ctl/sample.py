"""What `top` shows: the members of a cluster, asked side by side, and rates between two askings.

Works with any etcd: Status and a member list from the member's own memory (no quorum is needed, and
nothing is written: the alarms are those that Status names, since listing alarms goes through the
log). What /metrics adds is left out where it cannot be reached.

Limits. A member has ANSWER_S to answer; one that does not is dead for this sample. At most
PARALLEL_MAX are asked at a time. Of /metrics METRICS_BYTES_MAX are read.
"""

import re
import socket
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

from pyetcd.cli import client as calls
from pyetcd.cli.client import BadSettings, Client, ClientError, Settings
from pyetcd.cli.dial import Route, route, trust
from pyetcd.cli.printers.cluster import Member, View
from pyetcd.proto import rpc_pb2 as rpc

ANSWER_S: Final = 2.0
PARALLEL_MAX: Final = 32
METRICS_BYTES_MAX: Final = 4 << 20
SLOW_S: Final = 0.2  # twice etcd's heartbeat interval
BEHIND_MAX: Final = 1000  # entries; a follower that is well lags by a few batches

_PUTS, _DELETES = "etcd_mvcc_put_total", "etcd_mvcc_delete_total"
_RANGES, _OLD_RANGES = "etcd_mvcc_range_total", "etcd_debugging_mvcc_range_total"
_KEYS, _WATCHERS = "etcd_debugging_mvcc_keys_total", "etcd_debugging_mvcc_watcher_total"
_SYNC_S = "etcd_disk_wal_fsync_duration_seconds_sum"
_SYNCS = "etcd_disk_wal_fsync_duration_seconds_count"
_WANTED: Final = (_PUTS, _DELETES, _RANGES, _OLD_RANGES, _KEYS, _WATCHERS, _SYNC_S, _SYNCS)
_LINE = re.compile(rf"^({'|'.join(_WANTED)}) (\S+)$", re.MULTILINE)
_ALARM = re.compile(r"memberID:(\d+) alarm:(\w+)")


class Answer(NamedTuple):
    """What one endpoint said; `error` when it said nothing."""

    at_s: float
    took_s: float
    status: rpc.StatusResponse | None
    metrics: Mapping[str, float]
    error: str
    is_refusal: bool = False  # it lives, and does not want to tell us


class Sampler:
    """Asks the cluster. Keeps a connection to each member."""

    def __init__(self, settings: Settings, *, answer_s: float = ANSWER_S) -> None:
        self._settings = settings
        self._answer_s = answer_s
        self._first = Client(settings.endpoints, settings, warn=_unsaid)
        self._clients: dict[str, Client] = {}
        self._ids: dict[str, int] = {}  # of the endpoints that have answered once
        self._members: tuple[rpc.Member, ...] = ()
        self._last: dict[str, Answer] = {}
        self._last_revision: tuple[float, int] | None = None
        self._pool = ThreadPoolExecutor(PARALLEL_MAX)

    def log_in(self) -> None:
        """Raises ClientError for a wrong password; a cluster that is away has time to come."""
        try:
            self._first.authenticate()
        except ClientError as failure:
            if failure.code not in ("Unavailable", "DeadlineExceeded"):
                raise

    def close(self) -> None:
        """Closes the connections; waits for what was asked."""
        self._pool.shutdown(cancel_futures=True)
        self._first.close()

    def look(self) -> View:
        """One sample."""
        answers = self._ask(list(dict.fromkeys(self._settings.endpoints)))
        self._list(answers)
        answers |= self._ask(self._uncovered(answers))
        rows = self._rows(answers)
        view = self._view(answers, rows)
        self._last = answers
        return view

    def _ask(self, endpoints: list[str]) -> dict[str, Answer]:
        return dict(zip(endpoints, self._pool.map(self._ask_one, endpoints), strict=True))

    def _ask_one(self, endpoint: str) -> Answer:
        begun_s = time.monotonic()
        client = self._clients.get(endpoint)
        status, error, is_refusal = None, "", False
        try:
            if client is None:
                # grpc would wait for who is away, and ever longer before it tries again.
                error = _refusal(endpoint, self._settings, self._answer_s)
                if error:
                    return Answer(time.monotonic(), 0.0, None, {}, error)
                client = self._clients[endpoint] = self._first.at(endpoint)
                begun_s = time.monotonic()
            status = client.call(calls.STATUS, rpc.StatusRequest(), timeout_s=self._answer_s)
        except ClientError as failure:
            error = failure.text
            is_refusal = failure.code not in ("Unavailable", "DeadlineExceeded", "Canceled")
        except BadSettings as failure:
            error = failure.text
        now_s = time.monotonic()
        if status is None:
            if client is not None:
                client.close()
                self._clients.pop(endpoint, None)
            return Answer(now_s, now_s - begun_s, None, {}, error, is_refusal)
        self._ids[endpoint] = status.header.member_id
        metrics = _metrics(endpoint, self._settings, self._answer_s)
        return Answer(now_s, now_s - begun_s, status, metrics, "")

    def _list(self, answers: Mapping[str, Answer]) -> None:
        """Refreshes the member list from one that answered; an old list is better than none."""
        for endpoint, answer in answers.items():
            if answer.status is None:
                continue
            try:
                found = self._clients[endpoint].call(
                    calls.MEMBER_LIST,
                    rpc.MemberListRequest(linearizable=False),
                    timeout_s=self._answer_s,
                )
            except ClientError:
                continue
            self._members = tuple(found.members)
            return

    def _endpoint_of(self, member: rpc.Member, endpoints: Mapping[str, Answer]) -> str:
        """Which of the endpoints is this member's; empty when none is."""
        urls = {_bare(url) for url in member.clientURLs}
        for endpoint in endpoints:
            known = self._ids.get(endpoint)
            if known == member.ID or (known is None and _bare(endpoint) in urls):
                return endpoint
        return ""

    def _uncovered(self, answers: Mapping[str, Answer]) -> list[str]:
        return [
            member.clientURLs[0]
            for member in self._members
            if member.clientURLs and not self._endpoint_of(member, answers)
        ]

    def _rows(self, answers: Mapping[str, Answer]) -> list[tuple[rpc.Member, str]]:
        """(member, endpoint); an endpoint of nobody that is known is a row, too."""
        rows = [(member, self._endpoint_of(member, answers)) for member in self._members]
        covered = {endpoint for _, endpoint in rows}
        ids = {member.ID for member in self._members}
        strange = [
            (rpc.Member(ID=self._ids.get(endpoint, 0)), endpoint)
            for endpoint in answers
            if endpoint not in covered and self._ids.get(endpoint, 0) not in ids
        ]
        return rows + strange

    def _view(self, answers: Mapping[str, Answer], rows: list[tuple[rpc.Member, str]]) -> View:
        statuses = [answer.status for answer in answers.values() if answer.status is not None]
        top = max((status.raftIndex for status in statuses), default=0)
        newest = max(statuses, key=lambda status: status.raftTerm, default=rpc.StatusResponse())
        revision = max((status.header.revision for status in statuses), default=0)
        names = {member.ID: member.name or f"{member.ID:x}" for member, _ in rows}
        leader = names.get(newest.leader, f"{newest.leader:x}") if newest.leader else ""
        alarms = _alarms(statuses)
        now_s, writes_s = time.monotonic(), None
        if statuses:
            if self._last_revision is not None:
                then_s, before = self._last_revision
                writes_s = max(revision - before, 0) / max(now_s - then_s, 1e-9)
            self._last_revision = now_s, revision
        members = tuple(
            _row(member, endpoint, answers.get(endpoint), self._last.get(endpoint), top, alarms)
            for member, endpoint in rows
        )
        cluster_id = newest.header.cluster_id
        return View(cluster_id, leader, newest.raftTerm, revision, writes_s, members)


def _row(
    member: rpc.Member,
    endpoint: str,
    answer: Answer | None,
    before: Answer | None,
    top: int,
    alarms: Mapping[int, tuple[str, ...]],
) -> Member:
    status = answer.status if answer is not None else None
    error = answer.error if answer is not None else "it has not started: no client URL"
    found = status or rpc.StatusResponse()
    role = "learner" if member.isLearner or found.isLearner else "unknown"
    if status is not None and role == "unknown":
        role = "leader" if found.leader == found.header.member_id else "follower"
    elif not member.name and not member.clientURLs and member.ID:
        role = "unstarted"
    lag = None if status is None else max(top - found.raftAppliedIndex, 0)
    took_s = answer.took_s if answer is not None else 0.0
    marks = []
    if status is None:
        if role == "unstarted":
            marks.append("unstarted")
        else:
            marks.append("refused" if answer is not None and answer.is_refusal else "dead")
    else:
        if not found.leader:
            marks.append("no leader")
        if took_s >= SLOW_S:
            marks.append("slow")
        if lag is not None and lag > BEHIND_MAX:
            marks.append("behind")
    rates = _Rates(answer, before)
    return Member(
        id=member.ID or found.header.member_id,
        name=member.name,
        endpoint=endpoint,
        role=role,
        version=found.version,
        raft_term=found.raftTerm,
        raft_index=found.raftIndex,
        raft_applied=found.raftAppliedIndex,
        lag=lag,
        revision=found.header.revision,
        db_bytes=found.dbSize,
        in_use_bytes=found.dbSizeInUse,
        took_s=took_s,
        keys=rates.whole(_KEYS),
        watchers=rates.whole(_WATCHERS),
        puts_s=rates.of(_PUTS),
        reads_s=rates.of(_RANGES, _OLD_RANGES),
        deletes_s=rates.of(_DELETES),
        sync_ms=rates.mean_ms(_SYNC_S, _SYNCS),
        alarms=alarms.get(member.ID, ()),
        marks=tuple(marks),
        error=error,
    )


class _Rates:
    """What changed between two answers of one endpoint."""

    def __init__(self, answer: Answer | None, before: Answer | None) -> None:
        self._now = answer.metrics if answer is not None else {}
        self._then = before.metrics if before is not None else {}
        self._for_s = answer.at_s - before.at_s if answer is not None and before is not None else 0

    def whole(self, name: str) -> int | None:
        value = self._now.get(name)
        return None if value is None else int(value)

    def of(self, *names: str) -> float | None:
        for name in names:
            grown = self._grown(name)
            if grown is not None and self._for_s > 0:
                return grown / self._for_s
        return None

    def mean_ms(self, sum_s: str, count: str) -> float | None:
        """Of what was timed since; of all that ever was, when nothing was."""
        total_s, times = self._grown(sum_s), self._grown(count)
        if not times or total_s is None:
            total_s, times = self._now.get(sum_s), self._now.get(count)
        return total_s / times * 1000 if times and total_s is not None else None

    def _grown(self, name: str) -> float | None:
        """None when it is not known, or has begun anew: a restart."""
        now, then = self._now.get(name), self._then.get(name)
        return None if now is None or then is None or now < then else now - then


def _alarms(statuses: list[rpc.StatusResponse]) -> dict[int, tuple[str, ...]]:
    found: dict[int, dict[str, None]] = {}
    for status in statuses:
        for error in status.errors:
            for member_id, name in _ALARM.findall(error):
                found.setdefault(int(member_id), {})[name] = None
    return {member_id: tuple(names) for member_id, names in found.items()}


def _refusal(endpoint: str, settings: Settings, timeout_s: float) -> str:
    """Why a connection cannot be opened; empty when it can."""
    way = route(endpoint, settings)
    if way is None:
        return "it is no address"
    try:
        _connected(way, timeout_s).close()
    except TimeoutError:
        return "i/o timeout"
    except OSError as failure:
        return (failure.strerror or str(failure)).lower()
    return ""


def _connected(way: Route, timeout_s: float) -> socket.socket:
    if isinstance(way.address, tuple):
        return socket.create_connection(way.address, timeout=timeout_s)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(timeout_s)
        connection.connect(way.address)
    except OSError:
        connection.close()
        raise
    return connection


def _metrics(endpoint: str, settings: Settings, timeout_s: float) -> dict[str, float]:
    """What of /metrics is wanted; nothing when there is no such page."""
    import http.client

    way = route(endpoint, settings)
    if way is None:
        return {}
    try:
        connection = http.client.HTTPConnection(way.authority, timeout=timeout_s)
        plain = _connected(way, timeout_s)
        connection.sock = plain
        try:
            if way.is_secure:
                context = trust(settings)
                context.set_alpn_protocols(["http/1.1"])
                connection.sock = context.wrap_socket(plain, server_hostname=way.host)
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            raw = answer.read(METRICS_BYTES_MAX) if answer.status == 200 else b""
        finally:
            connection.close()
            plain.close()
    except (OSError, ValueError, http.client.HTTPException):
        return {}
    found = {}
    for name, value in _LINE.findall(raw.decode("utf-8", "replace")):
        try:
            found[name] = float(value)
        except ValueError:
            continue
    return found


def _bare(endpoint: str) -> str:
    return endpoint.partition("://")[2] or endpoint


def _unsaid(line: str) -> None:
    """A member that does not answer is a mark in the view, not a line of a log."""
