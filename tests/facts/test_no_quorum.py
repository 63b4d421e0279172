"""Without a quorum: fact 64, and what fact 62 says about it."""

import functools
import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

# Five seconds and two election timeouts: of half a second each where there is no leader, and longer
# where one must not notice so soon that it is alone.
REQUEST_TIMEOUT_S = 6.0
PAIR_TIMEOUT_S = 9.0
LATE_S = 4.0  # what a loaded machine may add
TIMING = ("--heartbeat-interval=50", "--election-timeout=2000")
NO_LEADER = (14, "etcdserver: no leader")
# The reason is that of the moment at which the leader stepped down.
TIMED_OUT = {
    (14, f"etcdserver: request timed out{reason}")
    for reason in ("", ", possibly due to previous leader failure")
}


def gateway_put(endpoint: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(endpoint, timeout=20)
    try:
        connection.request("POST", "/v3/kv/put", b'{"key":"aw==","value":"dg=="}')
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


class Pair:
    """Two members; the follower is killed, and the leader takes a put before it knows."""

    def __init__(self, machine: Any, program: str, side: Any) -> None:
        self.program, self._side = program, side
        self.nodes = machine.cluster(2, *TIMING, program=program)

    def kill_one(self) -> None:
        for node in self.nodes:
            node.wait_healthy()
        sides = [self._side(self.program, node.endpoint, None) for node in self.nodes]
        leads: list[bool] = []
        deadline_s = time.monotonic() + 20
        while sum(leads) != 1:
            assert time.monotonic() < deadline_s
            states = [side.raw("Maintenance.Status") for side in sides]
            leads = [state.leader == state.header.member_id for state in states]
        self.leader = sides.pop(leads.index(True))
        sides[0].close()
        self.leader.raw("KV.Put", key=b"before")
        self.nodes[leads.index(False)].kill()


def kept_alive(side: Any) -> Any:
    stream = side.stream("Lease.LeaseKeepAlive")
    stream.ask(ID=12345)
    return stream.take()


def timed(ask: Any) -> tuple[Any, float]:
    began_s = time.monotonic()
    return ask(), time.monotonic() - began_s


def test_fact_64_how_long_a_write_waits(
    shared_sides: Any, special_sides: Any, machine: Any
) -> None:
    """For the request timeout. One that raft never took ends with the waiter's own error, one that
    it took and could not commit with `request timed out`; to keep a lease alive there is no leader.
    (Both programs are asked in one test, for they have to be waited for. The reasons that name a
    lost leader or connection hang on moments: tests/server/test_propose.py has them.)"""
    leaderless = [special_sides("leaderless", program) for program in shared_sides]
    pairs = [Pair(machine, program, type(side)) for program, side in shared_sides.items()]
    for pair in pairs:
        pair.kill_one()
    taken = [functools.partial(pair.leader, "KV.Put", key=b"k") for pair in pairs]
    not_taken = [
        ask
        for side in leaderless
        for ask in (
            functools.partial(gateway_put, side.endpoint),
            functools.partial(side, "KV.Put", key=b"k", value=b"v"),
            functools.partial(side, "Lease.LeaseGrant", TTL=60),
            functools.partial(kept_alive, side),
        )
    ]
    with ThreadPoolExecutor(len(taken) + len(not_taken)) as pool:
        answers = list(pool.map(timed, [*taken, *not_taken]))
    for number, (_, took_s) in enumerate(answers):
        timeout_s = REQUEST_TIMEOUT_S if number >= len(taken) else PAIR_TIMEOUT_S
        assert timeout_s - 0.2 < took_s < timeout_s + LATE_S
    found = [answer for answer, _ in answers]
    text = "context deadline exceeded"
    by_json = (500, {"error": text, "code": 2, "message": text})
    assert set(found[:2]) <= TIMED_OUT
    assert found[2:] == [by_json, (2, text), (2, text), NO_LEADER] * 2
    for pair in pairs:
        assert list(pair.leader("Maintenance.Status").errors) == ["etcdserver: no leader"]
        pair.leader.close()


def test_fact_64_what_wants_a_leader_does_not_wait(leaderless: Any) -> None:
    """A call that says that it needs one, and a lease that is kept alive once the time is over."""
    has_leader = [("hasleader", "true")]
    assert leaderless("KV.Put", key=b"k", metadata=has_leader) == NO_LEADER
    stream = leaderless.stream("Lease.LeaseKeepAlive", has_leader)
    stream.ask(ID=1)
    assert stream.take() == NO_LEADER


def test_fact_62_only_true_asks_for_a_leader(leaderless: Any) -> None:
    """`hasleader` counts if it is the word `true`. (Of `token` and `authorization` fact 49 speaks,
    of `grpcgateway-accept` fact 51.)"""
    asked = {"key": b"before", "serializable": True}
    for value in ("false", "True", "1", ""):
        answer = leaderless("KV.Range", metadata=[("hasleader", value)], **asked)
        assert answer.count == 1, value
    assert leaderless("KV.Range", metadata=[("hasleader", "true")], **asked) == NO_LEADER
