"""/health, /livez, /readyz, /version, /metrics, /debug/vars: what an operator asks.

/health is etcd's 3.5.1 answer, with `serializable=true` of 3.5.3: alarms first, then the leader,
then a linearizable read. /livez and /readyz are those of 3.5.11, checks in order of their names.
None of them is counted against clients' limits, none of them waits in this process: a read is
asked for and the answer is sent when it comes, or when the read fails by its own timeout.
"""

import json
import sys
from collections.abc import Callable, Iterable
from typing import Protocol
from urllib.parse import parse_qs

from pyetcd.proto.errors import EtcdError
from pyetcd.proto.rpc_pb2 import AlarmMember, AlarmType
from pyetcd.raft.rawnode import Status
from pyetcd.server.http.router import TEXT_HEADERS, Router, allow_get, fail
from pyetcd.server.logs import Log, get
from pyetcd.server.metrics import CONTENT_TYPE, Metrics, file_limit, resident_bytes_max
from pyetcd.server.wire.http1 import HttpRequest, HttpResponder

_ROLES = ("StateFollower", "StateCandidate", "StateLeader", "StatePreCandidate")
_PROGRESS = ("StateProbe", "StateReplicate", "StateSnapshot")
_JSON_HEADERS = (("Content-Type", "application/json"),)
_HEALTH_HEADERS = (("Content-Type", "text/plain; charset=utf-8"),)
DISK_STALLED = "DISK STALLED"
LOG_LOST = "LOG LOST"  # until the member has caught up again


class OpsSource(Protocol):
    """What the member answers."""

    @property
    def has_leader(self) -> bool: ...

    @property
    def is_learner(self) -> bool: ...

    is_log_lost: bool  # a learner in the place of a member whose log was lost

    @property
    def is_disk_stalled(self) -> bool:
        """A write of the log has taken longer than an election timeout, and is not over."""

    @property
    def alarms(self) -> Iterable[AlarmMember]:
        """Of all members."""

    @property
    def server_version(self) -> str: ...

    @property
    def cluster_version(self) -> str:
        """`not_decided` before there is one."""

    def linearizable_read(self, done: Callable[[EtcdError | None], None]) -> None:
        """`done` exactly once: None when this member could serve a linearizable read."""

    def serializable_read(self) -> EtcdError | None:
        """Read one key from this member's keyspace."""

    def raft_status(self) -> Status: ...

    @property
    def applied_index(self) -> int: ...


Check = Callable[[Callable[[str], None]], None]  # calls back with "" or with what is wrong


class Ops:
    """The handlers; `add_to` puts those of one listener into its router."""

    def __init__(self, source: OpsSource, metrics: Metrics, log: Log | None = None) -> None:
        self._source = source
        self._metrics = metrics
        self._log = log or get(__name__)
        self._checks: dict[str, dict[str, Check]] = {
            "livez": {"serializable_read": self._check_serializable},
            "readyz": {
                "data_corruption": self._check_corruption,
                "linearizable_read": self._check_linearizable,
                "non_learner": self._check_learner,
                "serializable_read": self._check_serializable,
            },
        }

    def add_to(self, router: Router, *, client_port: bool) -> None:
        """All of them on the client port; health and metrics alone on --listen-metrics-urls."""
        router.exact("/health", self.health)
        router.exact("/metrics", self.metrics)
        for kind, checks in self._checks.items():
            router.exact(f"/{kind}", self._checks_handler(kind, None))
            for name in checks:
                router.exact(f"/{kind}/{name}", self._checks_handler(kind, name))
        if client_port:
            router.exact("/version", self.version)
            router.exact("/debug/vars", self.debug_vars)

    # ---- /health ----

    def health(self, request: HttpRequest, responder: HttpResponder) -> None:
        if not allow_get(request, responder):
            return
        query = parse_qs(request.query)
        serializable = query.get("serializable", [""])[0] == "true"
        reason = self._alarm_reason(frozenset(query.get("exclude", ())))
        if not reason and not serializable:
            if self._source.is_disk_stalled:
                reason = DISK_STALLED
            elif self._source.is_log_lost:
                reason = LOG_LOST
            elif not self._source.has_leader:
                reason = "RAFT NO LEADER"

        def done(error: EtcdError | None) -> None:
            self._answer_health(responder, "" if error is None else f"RANGE ERROR:{error.text}")

        if reason:
            self._answer_health(responder, reason)
        elif serializable:
            done(self._source.serializable_read())
        else:
            self._source.linearizable_read(done)

    def _alarm_reason(self, excluded: frozenset[str]) -> str:
        for member in self._source.alarms:
            name = AlarmType.Name(member.alarm) if member.alarm in AlarmType.values() else ""
            if name not in excluded:
                return f"ALARM {name}" if name in ("NOSPACE", "CORRUPT") else "ALARM UNKNOWN"
        return ""

    def _answer_health(self, responder: HttpResponder, reason: str) -> None:
        counters = self._metrics.counters
        healthy = "false" if reason else "true"
        body = json.dumps({"health": healthy, "reason": reason}, separators=(",", ":"))
        if not reason:
            counters.health_success += 1
            return responder.send(200, _HEALTH_HEADERS, body.encode())
        counters.health_failures += 1
        self._log.warn("/health error", output=body, status_code=503)
        return fail(responder, 503, body)

    # ---- /livez and /readyz ----

    def _checks_handler(
        self, kind: str, only: str | None
    ) -> Callable[[HttpRequest, HttpResponder], None]:
        def handle(request: HttpRequest, responder: HttpResponder) -> None:
            if not allow_get(request, responder):
                return
            query = parse_qs(request.query, keep_blank_values=True)
            excluded = query.get("exclude", ()) if only is None else ()
            names = [only] if only else [n for n in self._checks[kind] if n not in excluded]

            def answer(lines: list[str]) -> None:
                text = "".join(lines)
                if any(line.startswith("[-]") for line in lines):
                    self._log.error("Health check error", path=request.path, reason=text)
                    fail(responder, 503, text)
                else:
                    shown = text if "verbose" in query else ""
                    responder.send(200, TEXT_HEADERS, f"{shown}ok\n".encode())

            _Run(self._checks[kind], names, answer).step()

        return handle

    def _check_serializable(self, done: Callable[[str], None]) -> None:
        error = self._source.serializable_read()
        done("" if error is None else f"range error: {error.text}")

    def _check_linearizable(self, done: Callable[[str], None]) -> None:
        if self._source.is_disk_stalled:
            return done(f"range error: {DISK_STALLED}")
        if not self._source.has_leader:
            return done("range error: etcdserver: no leader")
        return self._source.linearizable_read(
            lambda error: done("" if error is None else f"range error: {error.text}")
        )

    def _check_corruption(self, done: Callable[[str], None]) -> None:
        raised = any(one.alarm == AlarmType.CORRUPT for one in self._source.alarms)
        done("alarm activated: CORRUPT" if raised else "")

    def _check_learner(self, done: Callable[[str], None]) -> None:
        done("not supported for learner" if self._source.is_learner else "")

    # ---- the rest ----

    def version(self, request: HttpRequest, responder: HttpResponder) -> None:
        if allow_get(request, responder):
            responder.send(200, _JSON_HEADERS, version_body(self._source))

    def metrics(self, request: HttpRequest, responder: HttpResponder) -> None:
        """Any method, as Go's handler; counted after it is made, as that one does."""
        del request
        metrics = self._metrics
        metrics.scrapes_inflight += 1
        try:
            body = metrics.render()
        finally:
            metrics.scrapes_inflight -= 1
        metrics.scrapes[200] += 1
        responder.send(200, (("Content-Type", CONTENT_TYPE),), body)

    def debug_vars(self, request: HttpRequest, responder: HttpResponder) -> None:
        if not allow_get(request, responder):
            return
        memory = json.dumps({"ResidentBytesMax": resident_bytes_max()})
        lines = (
            f'"cmdline": {json.dumps(sys.argv)}',
            f'"file_descriptor_limit": {file_limit()}',
            f'"memstats": {memory}',
            f'"raft.status": {self._raft_status()}',
        )
        headers = (("Content-Type", "application/json; charset=utf-8"),)
        responder.send(200, headers, ("{\n" + ",\n".join(lines) + "\n}\n").encode())

    def _raft_status(self) -> str:
        status = self._source.raft_status()
        progress = {
            f"{member:x}": {
                "match": view.match,
                "next": view.next,
                "state": _PROGRESS[int(view.state)],
            }
            for member, view in status.progress.items()
        }
        fields = {
            "id": f"{status.id:x}",
            "term": status.term,
            "vote": f"{status.vote:x}",
            "commit": status.commit,
            "lead": f"{status.leader:x}",
            "raftState": _ROLES[int(status.role)],
            "applied": self._source.applied_index,
            "progress": progress,
            "leadtransferee": f"{status.lead_transferee:x}",
        }
        return json.dumps(fields, separators=(",", ":"))


def version_body(source: OpsSource) -> bytes:
    versions = {"etcdserver": source.server_version, "etcdcluster": source.cluster_version}
    return json.dumps(versions, separators=(",", ":")).encode()


class _Run:
    """Checks one after the other, each of which may answer later."""

    def __init__(
        self, checks: dict[str, Check], names: list[str], done: Callable[[list[str]], None]
    ) -> None:
        self._checks = checks
        self._names = names
        self._lines: list[str] = []
        self._done = done

    def step(self) -> None:
        if len(self._lines) == len(self._names):
            return self._done(self._lines)
        name = self._names[len(self._lines)]

        def answered(problem: str) -> None:
            good = f"[+]{name} ok\n"
            self._lines.append(f"[-]{name} failed: {problem}\n" if problem else good)
            self.step()

        return self._checks[name](answered)
