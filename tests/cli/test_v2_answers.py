"""etcdctl 3.5.1 and `pyetcd ctl`, both with ETCDCTL_API=2, beside servers that are no etcd or a
broken one: what comes back is written out here, byte for byte."""

import os
import re
import shlex
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pyetcd.cli.ctl2.run import run

MEMBERS = '{"members":[{"id":"a1","name":"m","peerURLs":["http://p"],"clientURLs":["{ep}"]}]}'
NODE = '{"action":"get","node":{"key":"/k","value":"v","modifiedIndex":7,"createdIndex":5}}'


def answer(body: str, status: str = "200 OK", *headers: str) -> str:
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body.encode())}"]
    return "\r\n".join([*lines, "", body])


def moved(place: str) -> str:
    return answer("", "307 Temporary Redirect", f"Location: {place}")


HTML = answer("<html>hello</html>", "200 OK", "Content-Type: text/html")
CHUNKED = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
KEY = answer(NODE, "200 OK", "X-Etcd-Index: 9")

# (name, what the server says to each request, in turn; "" hangs up, command lines)
ROWS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("key", (KEY,), "--no-sync get k"),
    ("key json", (KEY,), "--no-sync -o json get k"),
    ("key extended", (KEY,), "--no-sync -o extended get k"),
    ("members", (answer(MEMBERS), KEY), "get k"),
    ("no members", (answer('{"members":[]}'),), "get k"),
    ("members without urls", (answer('{"members":[{"id":"1"}]}'),), "get k"),
    ("null members", (answer('{"members":null}'),), "member list"),
    ("members html", (HTML, KEY), "get k"),
    ("members gone", (answer("404 page not found\n", "404 Not Found"), KEY), "get k"),
    ("member list html", (HTML, HTML), "member list"),
    ("member list truncated", (KEY, answer('{"members":[')), "member list"),
    (
        "no leader",
        (answer(MEMBERS), answer(MEMBERS), answer('{"message":"x"}', "503 Unavailable")),
        "member list",
    ),
    ("leader unknown", (answer(MEMBERS), answer(MEMBERS), answer("{}", "404 x")), "member list"),
    ("html", (HTML,), "--no-sync get k"),
    ("html set", (HTML,), "--no-sync set k v"),
    ("html user list", (HTML,), "--no-sync user list"),
    ("html user get", (HTML,), "--no-sync user get x"),
    ("html role get", (HTML,), "--no-sync role get x"),
    ("html role add", (HTML, HTML), "--no-sync role add x"),
    ("html auth", (HTML,), "--no-sync auth enable"),
    ("html cluster-health", (HTML,), "cluster-health"),
    ("plain 404", (answer("404 page not found\n", "404 Not Found"),), "--no-sync get k"),
    ("json 404", (answer('{"message":"nope"}', "404 Not Found"),), "--no-sync get k"),
    ("empty refusal", (answer("", "404 x"),), "--no-sync user get x"),
    ("open object", (answer('{"a"', "404 x"),), "--no-sync user get x"),
    ("bad object", (answer("{a}", "404 x"),), "--no-sync user get x"),
    ("no colon", (answer('{"a" 1}', "404 x"),), "--no-sync user get x"),
    ("empty", (answer(""),), "--no-sync get k"),
    ("500", (answer('{"errorCode":300}', "500 x"),), "--no-sync get k"),
    ("503", (answer("x", "503 x"),), "--no-sync get k"),
    ("502", (answer("x", "502 Bad Gateway"),), "--no-sync get k"),
    ("503 once", (answer("x", "503 x"),), "--no-sync rm k"),
    ("504 once", (answer("x", "504 x"),), "--no-sync mk k v"),
    ("503 sync", (answer("x", "503 x"), KEY), "get k"),
    ("hang up", ("",), "--no-sync get k"),
    ("hang up mk", ("",), "--no-sync mk k v"),
    ("hang up sync", ("", KEY), "get k"),
    ("continue", ("HTTP/1.1 100 Continue\r\n\r\n" + KEY,), "--no-sync get k"),
    ("until the end", (f"HTTP/1.1 200 OK\r\n\r\n{NODE}",), "--no-sync get k"),
    ("HTTP/1.0", (f"HTTP/1.0 200 OK\r\n\r\n{NODE}",), "--no-sync get k"),
    (
        "bare newlines",
        (f"HTTP/1.1 200 OK\nX-Etcd-Index: 3\n\n{NODE}",),
        "--no-sync -o extended get k",
    ),
    ("chunks", (f"{CHUNKED}{len(NODE):X};x=y\r\n{NODE}\r\n0\r\nA: b\r\n\r\n",), "--no-sync get k"),
    ("no number of bytes", (CHUNKED + "zz\r\n",), "--no-sync get k"),
    ("no end of chunks", (f"{CHUNKED}{len(NODE):x}\r\n{NODE}\r\n0\r\n",), "--no-sync get k"),
    ("no end of a chunk", (f"{CHUNKED}3\r\n{NODE}\r\n0\r\n\r\n",), "--no-sync get k"),
    ("bad length", ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",), "--no-sync get k"),
    ("bad length, below 0", ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",), "--no-sync get k"),
    ("no header", ("HTTP/1.1 200 OK\r\nhello\r\n\r\n",), "--no-sync get k"),
    ("no end of headers", ("HTTP/1.1 200 OK\r\nA: b\r\n",), "--no-sync get k"),
    ("half a status", ("HTTP/1.1 20",), "--no-sync get k"),
    ("a status without words", ("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",), "--no-sync get k"),
    ("204", ("HTTP/1.1 204 x\r\n\r\n",), "--no-sync get k"),
    ("an index that is none", (answer(NODE, "200 OK", "X-Etcd-Index: x"),), "--no-sync get k"),
    ("no status", ("HTTP/1.1 2x0 OK\r\n\r\n",), "--no-sync get k"),
    ("another protocol", ("SIP/2.0 200 OK\r\n\r\n",), "--no-sync get k"),
    ("no http", ("hello there\r\n",), "--no-sync get k"),
    ("short body", (KEY[:-5],), "--no-sync get k"),
    ("no chunk", ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",), "--no-sync ls"),
    (
        "short chunks",
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",),
        "--no-sync ls",
    ),
    ("redirect", (moved("{ep}/else"), KEY), "--no-sync get k"),
    ("redirect nowhere", (answer("", "307 x"),), "--no-sync get k"),
    ("redirect bad", (moved(":x"),), "--no-sync get k"),
    ("redirect relative", (moved("/x"),), "--no-sync get k"),
    ("redirect loop", (moved("{ep}/"),) * 20, "--no-sync get k"),
    ("silence", ("WAIT",), "--no-sync --timeout=200ms get k"),
    ("silence in all", ("WAIT",), "--no-sync --timeout=10s --total-timeout=200ms get k"),
    ("silence once", ("WAIT",), "--no-sync --timeout=200ms rm k"),
    (
        "silence, body",
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nWAIT",),
        "--no-sync --timeout=200ms --total-timeout=400ms get k",
    ),
    ("silence in sync", ("WAIT", KEY), "--timeout=200ms get k"),
    ("silence in sync, all", ("WAIT", KEY), "--timeout=10s --total-timeout=200ms get k"),
    ("health true", (answer(MEMBERS), answer('{"health":"true"}')), "cluster-health"),
    ("health bool", (answer(MEMBERS), answer('{"health":true}')), "cluster-health"),
    ("health false", (answer(MEMBERS), answer('{"health":"false"}', "503 x")), "cluster-health"),
    ("health html", (answer(MEMBERS), HTML), "cluster-health"),
    ("health hang up", (answer(MEMBERS), ""), "cluster-health"),
    ("no health", (answer(MEMBERS), "hello\r\n"), "cluster-health"),
    ("unstarted", (answer('{"members":[{"id":"b2"}]}'),), "cluster-health"),
    ("watch html", (HTML,), "--no-sync watch k"),
    (
        "watch cleared",
        (answer('{"errorCode":401,"message":"m","cause":"c","index":9}', "400 x"),),
        "--no-sync watch --after-index 1 k",
    ),
    ("watch again", (answer(""), KEY), "--no-sync watch k"),
    (
        "watch of a dir",
        (answer('{"action":"set","node":{"key":"/d","dir":true,"modifiedIndex":3}}'), KEY),
        "--no-sync watch k",
    ),
    (
        "member conflict",
        (answer(MEMBERS), answer('{"message":"it is there"}', "409 x")),
        "member add n http://127.0.0.1:1",
    ),
    (
        "member refused",
        (answer(MEMBERS), answer('{"message":"no"}', "401 x")),
        "member add n http://127.0.0.1:1",
    ),
    ("member gone", (answer(MEMBERS), answer(MEMBERS), answer("", "410 x")), "member remove a1"),
    ("member stays", (answer(MEMBERS), answer(MEMBERS), answer("{}", "403 x")), "member remove a1"),
    ("member moved", (answer(MEMBERS), answer("", "204 x")), "member update a1 http://127.0.0.1:1"),
    (
        "unstarted member",
        (
            answer(MEMBERS),
            answer('{"members":[{"id":"b2","peerURLs":["http://q"]}]}'),
            answer('{"id":"b2"}'),
        ),
        "member list",
    ),
)


@contextmanager
def server(answers: tuple[str, ...]) -> Iterator[tuple[str, list[bytes]]]:
    """Gives its answers in turn, over one connection or many; what it is asked is kept."""
    asked: list[bytes] = []
    rest = list(answers)
    listener = socket.create_server(("127.0.0.1", 0))
    endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
    over = threading.Event()
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with connection:
            connection.settimeout(30)
            while rest:
                request = read_request(connection)
                if not request:
                    return
                asked.append(request)
                text = filled(rest.pop(0), endpoint)
                whole, waits = text.removesuffix("WAIT"), text.endswith("WAIT")
                connection.sendall(whole.encode())
                if waits:
                    over.wait(30)
                if waits or not text or "Content-Length" not in text or text in (KEY[:-5],):
                    return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(connection,)))
            threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield endpoint, asked
    finally:
        over.set()
        rest.clear()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in (acceptor, *threads):
            thread.join(30)


def filled(text: str, endpoint: str) -> str:
    """With the endpoint, and with the length of the body that then is."""
    if "{ep}" not in text:
        return text
    head, gap, body = text.replace("{ep}", endpoint).partition("\r\n\r\n")
    return re.sub(r"Content-Length: \d+", f"Content-Length: {len(body)}", head) + gap + body


def read_request(connection: socket.socket) -> bytes:
    raw = b""
    try:
        while b"\r\n\r\n" not in raw:
            chunk = connection.recv(4096)
            if not chunk:
                return b""
            raw += chunk
        head, _, body = raw.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        while length and len(body) < int(length[1]):
            body += connection.recv(4096)
    except OSError:
        return b""
    return head + b"\r\n\r\n" + body


def tidy(raw: bytes) -> str:
    text = re.sub(r"127\.0\.0\.1:\d{2,}", "PLACE", raw.decode("utf-8", "replace"))
    # Who hears of a closed connection first: the reader or the writer.
    return re.sub(r"(read|write) tcp PLACE->PLACE: \1: [a-z ]+", "EOF", text)


def request_lines(asked: list[bytes]) -> list[bytes]:
    lines = []
    for raw in asked:
        head, _, body = raw.partition(b"\r\n\r\n")
        kept = [
            line
            for line in head.split(b"\r\n")
            if line.lower().startswith((b"content-type", b"auth"))
        ]
        lines.append(b"\n".join([head.split(b"\r\n")[0], *kept, body]))
    return lines


@pytest.fixture(scope="module")
def etcdctl(machine_type: Any, tmp_path_factory: Any) -> str:
    return str(machine_type(tmp_path_factory.mktemp("v2answers")).etcdctl)


@pytest.mark.parametrize(("answers", "line"), [row[1:] for row in ROWS], ids=[r[0] for r in ROWS])
def test_answer(etcdctl: str, answers: tuple[str, ...], line: str) -> None:
    with server(answers) as (endpoint, asked):
        env = {"PATH": os.environ["PATH"], "ETCDCTL_API": "2", "ETCDCTL_ENDPOINTS": endpoint}
        argv = shlex.split(line)
        done = subprocess.run([etcdctl, *argv], env=env, capture_output=True, timeout=30)
        expected = tidy(done.stdout), tidy(done.stderr), done.returncode, request_lines(asked)
    with server(answers) as (endpoint, asked):
        out, err, code = run(argv, {"ETCDCTL_ENDPOINTS": endpoint})
        got = tidy(out), tidy(err), code, request_lines(asked)
    assert got == expected


@pytest.mark.parametrize(
    "body", ("{}", '{"node":null}', '{"node":[]}', '{"node":{"nodes":[1]}}', "3")
)
def test_an_answer_without_a_node(body: str) -> None:
    """etcdctl panics."""
    text = (
        "client: response is invalid json. The endpoint is probably not valid etcd cluster endpoint"
    )
    for line in ("get k", "ls", "set k v", "watch k"):
        with server((answer(body),)) as (endpoint, _):
            env = {"ETCDCTL_ENDPOINTS": endpoint}
            out, err, code = run(["--no-sync", *line.split()], env)
        assert (out, err, code) == (b"", f"Error:  {text}\n".encode(), 4)


def test_three_thousand_directories_deep() -> None:
    node = '{"key":"/d","dir":true,"nodes":[' * 3000 + '{"key":"/k"}' + "]}" * 3000
    with server((answer(f'{{"action":"get","node":{node}}}'),)) as (endpoint, _):
        _, err, code = run(["--no-sync", "ls"], {"ETCDCTL_ENDPOINTS": endpoint})
    assert code == 4 and b"invalid json" in err


# (what the proxy says, the environment, a command line)
PROXIED: tuple[tuple[tuple[str, ...], dict[str, str], str], ...] = (
    ((KEY,), {"HTTP_PROXY": "{ep}"}, "get k"),
    ((KEY,), {"http_proxy": "{ep}"}, "-u a:b set k v"),
    ((KEY,), {"HTTP_PROXY": "{place}"}, "get k"),
    ((KEY,), {"HTTP_PROXY": "http://me:p%40ss@{place}"}, "get k"),
    ((KEY,), {"HTTP_PROXY": "{ep}", "NO_PROXY": "other.invalid,.nowhere"}, "get k"),
    ((KEY,), {"HTTP_PROXY": "{ep}", "NO_PROXY": "store.invalid:80"}, "get k"),
    ((KEY,), {"HTTPS_PROXY": "http://127.0.0.1:1", "HTTP_PROXY": "{ep}"}, "get k"),
    (("",), {"HTTP_PROXY": "{ep}"}, "get k"),
    ((answer("", "403 Forbidden"),), {"HTTP_PROXY": "{ep}"}, "get k"),
    ((), {"HTTP_PROXY": "http://127.0.0.1:1"}, "get k"),
    ((), {"HTTP_PROXY": "http://127.0.0.1:1"}, "mk k v"),
    ((answer("", "403 Not For You"),), {"HTTPS_PROXY": "{ep}"}, "SECURE get k"),
    ((answer("", "200 OK"),), {"HTTPS_PROXY": "http://u:p@{place}"}, "SECURE get k"),
    (("",), {"HTTPS_PROXY": "{ep}"}, "SECURE get k"),
    (("hello\r\n",), {"HTTPS_PROXY": "{ep}"}, "SECURE get k"),
    ((), {"HTTPS_PROXY": "http://127.0.0.1:1"}, "SECURE get k"),
)


@pytest.mark.parametrize(("answers", "env", "line"), PROXIED)
def test_proxy(etcdctl: str, answers: tuple[str, ...], env: dict[str, str], line: str) -> None:
    scheme = "https" if line.startswith("SECURE ") else "http"
    argv = ["--no-sync", f"--endpoints={scheme}://store.invalid:2379"]
    argv += line.removeprefix("SECURE ").split()
    found = []
    for program in (etcdctl, ""):
        with server(answers) as (endpoint, asked):
            place = endpoint.removeprefix("http://")
            whole = {
                name: text.replace("{ep}", endpoint).replace("{place}", place)
                for name, text in env.items()
            }
            if program:
                whole |= {"PATH": os.environ["PATH"], "ETCDCTL_API": "2"}
                done = subprocess.run([program, *argv], env=whole, capture_output=True, timeout=30)
                outcome = done.stdout, done.stderr, done.returncode
            else:
                outcome = run(argv, whole)
        heads = [head_lines(raw) for raw in asked]
        found.append((tidy(outcome[0]), tidy(outcome[1]), outcome[2], heads))
    assert found[1] == found[0]


def head_lines(raw: bytes) -> list[bytes]:
    """Without what keeps a connection."""
    first, *lines = raw.split(b"\r\n")
    kept = (b"host", b"proxy-auth", b"authorization", b"content-", b"user-agent")
    return [first, *sorted(line for line in lines if line.lower().startswith(kept))]
