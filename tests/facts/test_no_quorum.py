"""Without a quorum: fact 64."""

import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

# Five seconds and two election timeouts, of half a second each here.
REQUEST_TIMEOUT_S = 6.0
LATE_S = 4.0  # what a loaded machine may add


def gateway_put(endpoint: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(endpoint, timeout=20)
    try:
        connection.request("POST", "/v3/kv/put", b'{"key":"aw==","value":"dg=="}')
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_fact_64_how_long_a_proposal_waits(leaderless: Any) -> None:
    """For the request timeout; raft takes none meanwhile, and the error is the waiter's own."""

    def timed(ask: Any) -> tuple[Any, float]:
        began_s = time.monotonic()
        return ask(), time.monotonic() - began_s

    asks = (
        lambda: gateway_put(leaderless.endpoint),
        lambda: leaderless("KV.Put", key=b"k", value=b"v"),
        lambda: leaderless("Lease.LeaseGrant", TTL=60),
    )
    with ThreadPoolExecutor(len(asks)) as pool:
        answers = list(pool.map(timed, asks))
    for _, took_s in answers:
        assert REQUEST_TIMEOUT_S - 0.2 < took_s < REQUEST_TIMEOUT_S + LATE_S
    text = "context deadline exceeded"
    assert answers[0][0] == (500, {"error": text, "code": 2, "message": text})
    assert [answer for answer, _ in answers[1:]] == [(2, text)] * 2


def test_fact_64_what_wants_a_leader_does_not_wait(leaderless: Any) -> None:
    """A call that says that it needs one, and a lease that is kept alive once the time is over."""
    has_leader = [("hasleader", "true")]
    no_leader = (14, "etcdserver: no leader")
    assert leaderless("KV.Put", key=b"k", metadata=has_leader) == no_leader
    stream = leaderless.stream("Lease.LeaseKeepAlive", has_leader)
    stream.ask(ID=1)
    assert stream.take() == no_leader
