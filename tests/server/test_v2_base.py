"""The way of v2 requests to the store: what does not get there, and what becomes of errors."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from pyetcd.proto.errors import ContextDeadlineExceeded, TimeoutDueToLeaderFail
from pyetcd.proto.v2request_pb2 import Request
from pyetcd.server.http.v2base import V2Base
from pyetcd.server.http.v2json import error_json, rfc3339
from pyetcd.store.backend import Backend
from pyetcd.store.v2 import V2Store


def test_what_is_asked_reaches_raft_or_is_refused(tmp_path: Path) -> None:
    backend = Backend.open(str(tmp_path / "kv.db"), create=True)
    asked: list[str] = []
    answers: list[Any] = []
    full = [True]

    def propose(request: Any, done: Any) -> None:
        asked.append(request.v2.Method)
        done(answers.pop() if answers else store.apply(request.v2))

    store = V2Store(backend, lambda: 0)
    base = V2Base(
        store,
        proposer=cast(Any, SimpleNamespace(propose=propose)),
        raft=cast(Any, SimpleNamespace(commit=1, term=2, leader=3)),
        cluster_id=0xC,
        wall_s=lambda: 1.5,
        loop=cast(asyncio.AbstractEventLoop, None),
        is_full=lambda: full[0],
    )
    got: list[Any] = []
    for method in ("PUT", "POST", "DELETE"):
        base.do(Request(Method=method, Path="/1/a"), got.append)
    assert asked == ["DELETE"] and [error.number for error in got] == [300, 300, 100]
    full[0] = False
    base.do(Request(Method="PUT", Path="/1/a"), got.append)
    base.do(Request(Method="GET", Path="/1/a", Quorum=True), got.append)
    base.do(Request(Method="GET", Path="/1/a"), got.append)
    assert asked == ["DELETE", "PUT", "QGET"]
    assert [event.node.value for event in got[3:]] == ["", "", ""]
    answers += [TimeoutDueToLeaderFail(), ContextDeadlineExceeded()]
    for cause in ("timed out", "timed out, possibly due to previous leader failure"):
        base.do(Request(Method="PUT", Path="/1/a"), got.append)
        assert error_json(got[-1]) == (
            '{"errorCode":300,"message":"Raft Internal Error",'
            f'"cause":"etcdserver: request {cause}","index":0}}\n'
        )
    assert base.raft_headers == (("X-Raft-Index", "1"), ("X-Raft-Term", "2"))
    backend.close()


def test_times_as_go_writes_them() -> None:
    assert rfc3339(1_500_000_000) == "1970-01-01T00:00:01.5Z"
    assert rfc3339(2_000_000_000) == "1970-01-01T00:00:02Z"
    assert rfc3339(-1) == "1969-12-31T23:59:59.999999999Z"
