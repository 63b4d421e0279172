"""The v2 API beside that of real etcd 3.5.1: status, headers and body of each request."""

import base64
import http.client
import itertools
import json
import random
import re
import socket
from typing import Any

import pytest
from v2store import level

# Times, and what differs between two clusters.
BLANKED = re.compile(
    rb'"(expiration|startTime|uptime|ttl|id|leader|name)":("[^"]*"|\d+)|(127\.0\.0\.1:\d+)'
)
BLANKED_HEADERS = ("x-etcd-cluster-id", "x-raft-index", "x-raft-term")
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
JSON = {"Content-Type": "application/json"}

Row = tuple[str, str, str]  # method, what follows /v2, the form in the body
BAD_BOOLS = ("recursive", "sorted", "wait", "dir", "quorum", "stream", "noValueOnSuccess")
ROWS: list[Row] = [
    ("GET", "/keys", ""),
    ("GET", "/keys/", ""),
    ("HEAD", "/keys/", ""),
    ("GET", "/keys/a", ""),
    ("PUT", "/keys/a", "value=1"),
    ("PUT", "/keys/a", "value=2"),
    ("GET", "/keys/a", ""),
    ("HEAD", "/keys/a", ""),
    ("HEAD", "/keys/nope", ""),
    ("HEAD", "/keys/a?quorum=true", ""),
    ("GET", "/keys/a?quorum=true", ""),
    ("GET", "/keys/a?quorum=true&wait=true", ""),
    ("GET", "/keys/nope?quorum=true", ""),
    ("GET", "/keys/a/b", ""),
    ("PUT", "/keys/a/b", "value=1"),
    ("PUT", "/keys/a/b", "value=1&prevExist=true"),
    ("PUT", "/keys/a?value=q", "value=body"),
    ("PUT", "/keys/a?value=q", ""),
    ("PUT", "/keys/a", ""),
    ("PUT", "/keys/empty", "value="),
    ("GET", "/keys/empty", ""),
    ("PUT", "/keys/escaped", "value=%3Ca%26b%3E%E2%80%A8+%22%5C%0a%00"),
    ("PUT", "/keys/two", "value=1&value=2"),
    ("PUT", "/keys/semi", "value=1;ttl=x"),
    ("PUT", "/keys/bad", "value=%zz"),
    ("PUT", "/keys/bad", "value=%4"),
    ("GET", "/keys/a?recursive=%g0", ""),
    ("PUT", "/keys/with%20space", "value=1"),
    ("PUT", "/keys/%C3%A9", "value=%C3%A9"),
    ("GET", "/keys/a//b", ""),
    ("GET", "/keys/x/../a", ""),
    ("PUT", "/keys/", "value=1"),
    ("PUT", "/keys", "dir=true"),
    ("DELETE", "/keys/", ""),
    ("DELETE", "/keys/?recursive=true", ""),
    ("PUT", "/keys/?prevExist=true", "value=1"),
    ("PUT", "/keys/?prevValue=1", "value=1"),
    ("DELETE", "/keys/?prevValue=1", ""),
    ("PUT", "/keys/d", "dir=true"),
    ("PUT", "/keys/d", "dir=true"),
    ("PUT", "/keys/d", "value=1"),
    ("PUT", "/keys/d", "dir=true&prevExist=true"),
    ("PUT", "/keys/d", "dir=true&prevExist=true&ttl=100"),
    ("PUT", "/keys/d", "value=1&prevExist=true"),
    ("PUT", "/keys/d", "dir=true&prevExist=false"),
    ("PUT", "/keys/d", "value=1&prevIndex=3"),
    ("DELETE", "/keys/d?prevIndex=3", ""),
    ("DELETE", "/keys/d", ""),
    ("PUT", "/keys/d/x/y", "value=1"),
    ("PUT", "/keys/d/_h/y", "value=1"),
    ("PUT", "/keys/d/c", "value=3"),
    ("GET", "/keys/d", ""),
    ("GET", "/keys/d?sorted=true", ""),
    ("GET", "/keys/d?recursive=true", ""),
    ("GET", "/keys/d?recursive=true&sorted=true", ""),
    ("GET", "/keys/d/_h", ""),
    ("GET", "/keys/?recursive=true", ""),
    ("DELETE", "/keys/d?dir=true", ""),
    ("DELETE", "/keys/d/c?dir=true", ""),
    ("DELETE", "/keys/d/c", ""),
    ("DELETE", "/keys/d?recursive=true", ""),
    ("DELETE", "/keys/d?recursive=true", ""),
    ("DELETE", "/keys/nope", ""),
    ("DELETE", "/keys/a/b", ""),
    ("PUT", "/keys/e", "dir=true&value=ignored"),
    ("DELETE", "/keys/e?dir=true", ""),
    ("PUT", "/keys/a", "dir=true"),
    ("DELETE", "/keys/a?dir=true", ""),
    ("POST", "/keys/q", "value=1"),
    ("POST", "/keys/q", "value=2"),
    ("POST", "/keys/q", "dir=true"),
    ("POST", "/keys/q", "value=3&ttl=50"),
    ("POST", "/keys/", "value=top"),
    ("POST", "/keys/two", "value=1"),
    ("GET", "/keys/q?sorted=true", ""),
    ("PUT", "/keys/c", "value=1&prevExist=false"),
    ("PUT", "/keys/c", "value=1&prevExist=false"),
    ("PUT", "/keys/c", "value=1&prevExist=false&prevValue=9"),
    ("PUT", "/keys/c", "value=2&prevExist=true"),
    ("PUT", "/keys/gone", "value=2&prevExist=true"),
    ("PUT", "/keys/c", "value=3&prevValue=2"),
    ("PUT", "/keys/c", "value=4&prevValue=2"),
    ("PUT", "/keys/c", "value=4&prevIndex=1"),
    ("PUT", "/keys/c", "value=4&prevIndex=1&prevValue=9"),
    ("PUT", "/keys/c", "value=4&prevValue=3&prevExist=true"),
    ("PUT", "/keys/gone", "value=4&prevValue=3"),
    ("PUT", "/keys/c", "value=5&prevIndex=0"),
    ("PUT", "/keys/c", "value=6&prevValue="),
    ("DELETE", "/keys/c?prevValue=", ""),
    ("DELETE", "/keys/c?prevValue=9", ""),
    ("DELETE", "/keys/c?prevIndex=1", ""),
    ("DELETE", "/keys/c?prevIndex=1&prevValue=9", ""),
    ("DELETE", "/keys/gone?prevIndex=1", ""),
    ("DELETE", "/keys/c?prevValue=5", ""),
    *(
        ("PUT", "/keys/n", f"value=2&noValueOnSuccess=true{more}")
        for more in ("&prevExist=false", "", "&prevExist=true", "&prevValue=2", "&prevValue=9")
    ),
    ("GET", "/keys/n?noValueOnSuccess=true", ""),
    ("DELETE", "/keys/n?noValueOnSuccess=true", ""),
    *(
        ("PUT", "/keys/t", f"value=1&ttl={ttl}")
        for ttl in ("100", "", "x", "-1", "1.5", "+1", "0x1")
    ),
    *(("PUT", "/keys/t", f"value=1&ttl={ttl}") for ttl in ("18446744073709551616", "007")),
    ("PUT", "/keys/t", "value=1&ttl=9000000000"),
    ("GET", "/keys/t", ""),
    ("PUT", "/keys/t", "ttl=100&refresh=true&prevExist=true"),
    ("PUT", "/keys/t", "ttl=100&refresh=true"),
    ("PUT", "/keys/t", "ttl=100&refresh=true&prevValue=1"),
    ("PUT", "/keys/t", "ttl=100&refresh=true&value=2"),
    ("PUT", "/keys/t", "ttl=100&refresh=true&value="),
    ("PUT", "/keys/t", "refresh=true"),
    ("PUT", "/keys/t", "refresh=false&value=3"),
    ("PUT", "/keys/t", "refresh=maybe"),
    ("PUT", "/keys/never", "ttl=100&refresh=true"),
    ("PUT", "/keys/never", "ttl=100&refresh=true&prevExist=true"),
    ("PUT", "/keys/t", "value=1&prevExist=true&ttl="),
    ("GET", "/keys/t", ""),
    ("PUT", "/keys/td", "dir=true&ttl=100"),
    ("GET", "/keys/td", ""),
    ("PUT", "/keys/a", "prevExist=maybe"),
    ("PUT", "/keys/a", "prevExist="),
    *(("GET", f"/keys/a?{name}=maybe", "") for name in BAD_BOOLS),
    *(("GET", f"/keys/a?{name}=", "") for name in BAD_BOOLS),
    *(("GET", f"/keys/?sorted={v}", "") for v in ("1", "t", "T", "TRUE", "True", "true", "tRUE")),
    *(("GET", f"/keys/?sorted={v}", "") for v in ("0", "f", "F", "FALSE", "False", "no", "2")),
    *(("GET", f"/keys/a?waitIndex={v}", "") for v in ("x", "-1", "", "1")),
    *(("GET", f"/keys/a?prevIndex={v}", "") for v in ("x", "-1", "", "1", "18446744073709551616")),
    *((method, "/keys/a", "wait=true") for method in ("PUT", "POST")),
    ("DELETE", "/keys/a?wait=true", ""),
    ("HEAD", "/keys/a?wait=true", ""),
    ("PATCH", "/keys/a", ""),
    ("OPTIONS", "/keys/a", ""),
    ("GET", "/keysx", ""),
    ("GET", "/", ""),
    ("GET", "", ""),
    ("GET", "/nope", ""),
    ("GET", "/machines", ""),
    ("HEAD", "/machines", ""),
    ("PUT", "/machines", ""),
    ("GET", "/machines/", ""),
    ("GET", "/members", ""),
    ("GET", "/members/", ""),
    ("HEAD", "/members", ""),
    ("GET", "/members/leader", ""),
    ("GET", "/members/nope", ""),
    ("DELETE", "/members", ""),
    ("DELETE", "/members/zz", ""),
    ("DELETE", "/members/5", ""),
    ("PUT", "/members/zz", ""),
    ("PUT", "/members/5", ""),
    ("POST", "/members", "peerURLs=x"),
    ("PUT", "/stats/store", ""),
    ("GET", "/stats/self", ""),
    ("GET", "/stats/leader", ""),
    ("GET", "/stats/nope", ""),
    ("GET", "/stats", ""),
]
# From here on the first index is known: what waits for events of the past gets them at once.
WATCHES = (
    "/keys/w?wait=true&waitIndex={0}",
    "/keys/w/?wait=true&waitIndex={0}&recursive=true",
    "/keys/w?wait=true&waitIndex={1}&recursive=true",
    "/keys/?wait=true&waitIndex={0}&recursive=true",
    "/keys/w/k?wait=true&waitIndex={1}",
    "/keys/w/k?wait=true&waitIndex={2}",
    "/keys/w/_h?wait=true&waitIndex={0}",
    "/keys/w/_h/z?wait=true&waitIndex={3}",
)
AUTH: list[tuple[str, str, Any]] = [
    ("GET", "/auth/enable", None),
    ("GET", "/auth/users", None),
    ("GET", "/auth/users/", None),
    ("GET", "/auth/users/u", None),
    ("GET", "/auth/users/u/v", None),
    ("GET", "/auth/roles", None),
    ("GET", "/auth/roles/root", None),
    ("GET", "/auth/roles/r", None),
    ("GET", "/auth", None),
    ("POST", "/auth/users/u", None),
    ("PUT", "/auth/users", None),
    ("POST", "/auth/enable", None),
    ("DELETE", "/auth/enable", None),
    ("PUT", "/auth/enable", None),
    ("PUT", "/auth/users/u", None),
    ("PUT", "/auth/users/u", {"user": "other", "password": "p"}),
    ("PUT", "/auth/users/u", {"user": 5}),
    ("PUT", "/auth/users/u", {"user": "u"}),
    ("PUT", "/auth/users/u", {"user": "u", "password": "p"}),
    ("PUT", "/auth/users/u", {"user": "u", "password": "p", "roles": ["r"]}),
    ("PUT", "/auth/users/v", {"user": "v", "password": "p", "roles": ["r"]}),
    ("PUT", "/auth/users/u", {"user": "u"}),
    ("PUT", "/auth/users/u", {"user": "u", "password": "q"}),
    ("PUT", "/auth/users/u", {"user": "u", "grant": ["r", "s"]}),
    ("PUT", "/auth/users/u", {"user": "u", "grant": ["r"]}),
    ("PUT", "/auth/users/u", {"user": "u", "revoke": ["s"]}),
    ("PUT", "/auth/users/u", {"user": "u", "revoke": ["s"]}),
    ("PUT", "/auth/users/u", {"user": "u", "grant": ["t"], "roles": ["x"]}),
    ("PUT", "/auth/users/nobody", {"user": "nobody", "grant": ["t"]}),
    ("GET", "/auth/users/u", None),
    ("PUT", "/auth/roles/r", {"role": "other"}),
    ("PUT", "/auth/roles/root", {"role": "root"}),
    ("PUT", "/auth/roles/r", {"role": "r"}),
    ("PUT", "/auth/roles/r", {"role": "r"}),
    ("PUT", "/auth/roles/s", {"role": "s", "permissions": {"kv": {"read": ["/s/*"], "write": []}}}),
    ("PUT", "/auth/roles/r", {"role": "r", "grant": {"kv": {"read": ["/r/*"], "write": ["/r/k"]}}}),
    ("PUT", "/auth/roles/r", {"role": "r", "grant": {"kv": {"read": ["/r/*"]}}}),
    ("PUT", "/auth/roles/r", {"role": "r", "revoke": {"kv": {"read": ["/none"]}}}),
    ("PUT", "/auth/roles/none", {"role": "none", "grant": {"kv": {"read": ["/r/*"]}}}),
    ("GET", "/auth/roles/r", None),
    ("GET", "/auth/roles", None),
    ("GET", "/auth/users", None),
    ("DELETE", "/auth/roles/root", None),
    ("DELETE", "/auth/roles/none", None),
    ("DELETE", "/auth/users/none", None),
    ("DELETE", "/auth/users/v", None),
    ("DELETE", "/auth/roles/s", None),
    ("PUT", "/auth/enable", None),
    ("PUT", "/auth/users/root", {"user": "root", "password": "rp"}),
    ("GET", "/auth/users/root", None),
]
ENABLED: list[Row] = [
    ("GET", "/keys/r/k", ""),
    ("PUT", "/keys/r/k", "value=1"),
    ("PUT", "/keys/r/j", "value=1"),
    ("GET", "/keys/r?recursive=true", ""),
    ("GET", "/keys/r/?recursive=true", ""),
    ("GET", "/keys/other", ""),
    ("GET", "/auth/users", ""),
    ("GET", "/auth/roles/r", ""),
    ("GET", "/auth/enable", ""),
    ("DELETE", "/auth/users/root", ""),
    ("PUT", "/auth/enable", ""),
    ("POST", "/members", "x"),
    ("GET", "/members", ""),
]


STARTED: dict[str, dict[str, int]] = {}


def basic(name: str, password: str) -> dict[str, str]:
    both = base64.b64encode(f"{name}:{password}".encode()).decode()
    return {"Authorization": f"Basic {both}"}


@pytest.fixture(scope="module")
def pair(machine_type: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    machine = machine_type(tmp_path_factory.mktemp("v2"))
    try:
        nodes = [machine.single(program, "--enable-v2") for program in ("etcd", "pyetcd")]
        level([f"http://{node.endpoint}" for node in nodes])
        for node in nodes:
            STARTED[node.name] = counts(node)
        yield nodes
    finally:
        machine.close()


def unordered(value: Any) -> Any:
    """Objects stay in order; the children of a directory have none."""
    if isinstance(value, tuple):
        return tuple(
            (k, sorted(map(unordered, v), key=repr) if k == "nodes" else unordered(v))
            for k, v in value
        )
    return [unordered(item) for item in value] if isinstance(value, list) else value


def ask(
    node: Any, method: str, path: str, body: str = "", headers: dict[str, str] | None = None
) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", node.client_port, timeout=20)
    try:
        connection.request(method, "/v2" + path, body.encode(), headers or {})
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        for name in ("date", "connection", "content-length", "transfer-encoding"):
            found.pop(name, None)
        for name in BLANKED_HEADERS:
            if name in found:
                found[name] = "_"
        content = BLANKED.sub(rb'"\1":"_"', answer.read())
    finally:
        connection.close()
    try:
        shown = unordered(json.loads(content, object_pairs_hook=tuple))
    except ValueError:
        shown = content
    return answer.status, found, shown, content.endswith(b"\n")


def same(pair: Any, method: str, path: str, body: str = "", **more: Any) -> Any:
    expected, found = (ask(node, method, path, body, **more) for node in pair)
    assert found == expected, (method, path, body)
    return found


def counts(node: Any) -> dict[str, int]:
    found: dict[str, int] = json.loads(raw(node, "/v2/stats/store"))
    return found


def same_counts(pair: Any) -> None:
    """Since the start: etcd's /health reads a key."""
    grown = [
        [(name, count - STARTED[node.name][name]) for name, count in counts(node).items()]
        for node in pair
    ]
    assert grown[1] == grown[0]


def test_requests(pair: Any) -> None:
    for method, path, body in ROWS:
        same(pair, method, path, body, headers=FORM if body else {})
    same(pair, "PUT", "/keys/noform", "value=1")  # without a Content-Type the body is none
    same_counts(pair)


def test_random_requests(pair: Any) -> None:
    rng = random.Random(6)
    for _ in range(250):
        path = "/keys/rnd" + "".join("/" + rng.choice("ab") for _ in range(rng.randrange(3)))
        method = rng.choice(("PUT", "PUT", "PUT", "POST", "DELETE", "GET"))
        fields = [f"value={rng.randrange(3)}"]
        for name, chance, values in (
            ("dir", 0.3, ("true", "false")),
            ("recursive", 0.3, ("true",)),
            ("prevExist", 0.25, ("true", "true", "false")),
            ("prevValue", 0.2, ("0", "1")),
            ("prevIndex", 0.1, ("1", "200")),
            ("ttl", 0.2, ("5000", "")),
            ("sorted", 0.2, ("true",)),
        ):
            if rng.random() < chance:
                fields.append(f"{name}={rng.choice(values)}")
        same(pair, method, path + "?" + "&".join(fields))
    same_counts(pair)


def test_watches_of_the_past(pair: Any) -> None:
    first = int(same(pair, "PUT", "/keys/w/k?value=1")[1]["x-etcd-index"])
    for path in ("/keys/w/k?value=2", "/keys/w/_h/z?value=3", "/keys/w/k?ttl=99&refresh=true"):
        same(pair, "PUT", path)
    same(pair, "DELETE", "/keys/w?recursive=true")
    for watch in WATCHES:
        same(pair, "GET", watch.format(*range(first, first + 5)))


def test_waiting(pair: Any) -> None:
    """Headers at once, then the event; a stream gets all."""
    streams: list[list[bytes]] = [[], []]
    for node, got in zip(pair, streams, strict=True):
        with socket.create_connection(("127.0.0.1", node.client_port), timeout=10) as connection:
            target = "/v2/keys/s?wait=true&recursive=true&stream=true"
            connection.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            received = b""
            while b"\r\n\r\n" not in received:
                received += connection.recv(65536)
            assert b"\r\nX-Etcd-Index: " in received
            for path in ("/keys/s/a?value=1", "/keys/s/_h?value=1", "/keys/s/b?value=2"):
                ask(node, "PUT", path)
            ask(node, "DELETE", "/keys/s?recursive=true")
            while received.count(b'"action"') < 4:
                received += connection.recv(65536)
        body = re.sub(rb"(^|\r\n)[0-9a-f]+\r\n", rb"\1", received.partition(b"\r\n\r\n")[2])
        got.extend(line for line in BLANKED.sub(b"_", body).split() if line)
    assert streams[1] == streams[0]
    for node in pair:
        waiting = http.client.HTTPConnection("127.0.0.1", node.client_port, timeout=10)
        waiting.request("GET", "/v2/keys/one?wait=true")
        answer = waiting.getresponse()  # before there is an event
        ask(node, "PUT", "/keys/one?value=1")
        assert json.loads(answer.read())["node"]["value"] == "1"
        waiting.close()
    same_counts(pair)


def next_event(node: Any, name: str, put: Any) -> Any:
    """The first event of the key after the answer of a PUT."""
    index = dict(dict(put[2])["node"])["modifiedIndex"]
    waiting = http.client.HTTPConnection("127.0.0.1", node.client_port, timeout=20)
    waiting.request("GET", f"/v2/keys/{name}?wait=true&waitIndex={index + 1}")
    event = json.loads(waiting.getresponse().read())
    waiting.close()
    return event


@pytest.mark.parametrize("ttl", ("1", "18446744073"))  # which is before now, in Go's 64 bits
def test_what_runs_out(pair: Any, ttl: str) -> None:
    answers = []
    for node in pair:
        put = ask(node, "PUT", f"/keys/short?value=1&ttl={ttl}")
        event = next_event(node, "short", put)
        assert event["prevNode"].pop("expiration")
        event["prevNode"].pop("ttl", None)  # what is left
        answers.append((put, event, ask(node, "GET", "/keys/short")))
    assert answers[1] == answers[0]
    assert answers[0][1]["action"] == "expire"


def test_the_history_is_bounded(pair: Any) -> None:
    for node in pair:
        connection = http.client.HTTPConnection("127.0.0.1", node.client_port, timeout=20)
        for number in range(1001):
            connection.request("PUT", f"/v2/keys/many?value={number}")
            connection.getresponse().read()
        connection.close()
    found = same(pair, "GET", "/keys/many?wait=true&waitIndex=5")
    assert found[0] == 400 and ("errorCode", 401) in found[2]


def test_changes_of_the_membership(pair: Any) -> None:
    for body in ("", "{", "[]", "{}", '{"peerURLs":["nonsense"]}', '{"peerURLs":["http://a:1/x"]}'):
        same(pair, "POST", "/members", body, headers=JSON)
    for node in pair:  # of its own: another member would take the quorum away
        own = json.loads(raw(node, "/v2/members"))["members"][0]
        taken = json.dumps({"peerURLs": own["peerURLs"]})
        answer = ask(node, "POST", "/members", taken, JSON)
        assert (answer[0], answer[2]) == (409, (("message", "membership: peerURL exists"),))


def raw(node: Any, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", node.client_port, timeout=20)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


def test_users_and_roles(pair: Any) -> None:
    for method, path, document in AUTH:
        body = "" if document is None else json.dumps(document)
        same(pair, method, path, body, headers=JSON)
    same(pair, "PUT", "/auth/users/u", "{bad", headers=JSON)
    half = '{"user":"u","grant":["a\\ud800"]}'
    same(pair, "PUT", "/auth/users/u", half, headers=JSON)
    same(pair, "PUT", "/keys/r/k?value=0")
    same(pair, "PUT", "/auth/enable")
    root = basic("root", "rp")
    same(pair, "DELETE", "/auth/roles/guest", headers=root)
    callers: tuple[dict[str, str], ...] = (
        {},
        root,
        basic("u", "q"),
        basic("u", "wrong"),
        {"Authorization": "Basic !"},
    )
    for headers, (method, path, body) in itertools.product(callers, ENABLED):
        kind = {"Content-Type": "text/plain"} if path == "/members" else FORM if body else {}
        same(pair, method, path, body, headers={**headers, **kind})
    same(pair, "DELETE", "/auth/enable", headers=root)
    same(pair, "GET", "/auth/enable")


METRIC = re.compile(
    r"(etcd_debugging_store_[a-z_]+|etcd_http_(?:received|failed)_total"
    r"|etcd_http_successful_duration_seconds_count)(\{[^}]*\})? ([0-9.e+]+)"
)


def metrics(node: Any) -> dict[str, float]:
    text = raw(node, "/metrics").decode()
    return {f"{m[1]}{m[2] or ''}": float(m[3]) for m in METRIC.finditer(text)}


def test_metrics(pair: Any) -> None:
    """They have grown by the same."""
    before = [metrics(node) for node in pair]
    for method, path, body in ROWS[:100]:
        same(pair, method, path, body, headers=FORM if body else {})
    same(pair, "GET", "/keys/metric?wait=true&waitIndex=5")
    for node in pair:
        put = ask(node, "PUT", "/keys/metric?value=1&ttl=0")
        assert next_event(node, "metric", put)["action"] == "expire"
    grown = [
        {name: value - old.get(name, 0) for name, value in metrics(node).items()}
        for node, old in zip(pair, before, strict=True)
    ]
    assert {n: v for n, v in grown[1].items() if v} == {n: v for n, v in grown[0].items() if v}
    names = {name.partition("{")[0] for name in metrics(pair[1])}
    assert names == {name.partition("{")[0] for name in metrics(pair[0])}


def test_a_member_gets_its_own_urls_again(pair: Any) -> None:
    """Not asked of etcd: it drops a change right after another one, and waits for its timeout."""
    own = json.loads(raw(pair[1], "/v2/members"))["members"][0]
    body = json.dumps({"peerURLs": own["peerURLs"]})
    assert ask(pair[1], "PUT", f"/members/{own['id']}", body, JSON)[0] == 204


def test_without_the_option(machine_type: Any, tmp_path: Any) -> None:
    machine = machine_type(tmp_path)
    try:
        both = [machine.single(program) for program in ("etcd", "pyetcd")]
        for path in ("/keys/a", "/members", "/machines", "/stats/self", "/auth/users", "/"):
            same(both, "GET", path)
    finally:
        machine.close()
