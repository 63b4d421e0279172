"""`get --at` against pyetcd, and against the real etcd, which does not know."""

import re
import time
from datetime import datetime, timedelta

import pytest

from pyetcd.cli.ctl.run import run

NOTE = re.compile(r"at (\S+): revision (\d+), of (\S+)\n")
FORMAT = "%Y-%m-%dT%H:%M:%SZ"


@pytest.fixture(scope="module")
def node(start_node):
    return start_node("pyetcd")


def test_the_real_etcd_does_not_know(start_node):
    etcd = start_node("etcd")
    text = b"Error: the server does not know the times of its revisions: --at needs pyetcd\n"
    for at in ("10m", "2026-11-23T10:00:00Z"):
        assert etcd("get", "k", "--at", at) == (b"", text, 4)


@pytest.mark.parametrize(
    "at", ("x", "10", "2026-11-23", "2026-11-23T10:00:00", "2026-13-23T10:00:00Z", "\udcff", "now")
)
def test_no_time(node, at):
    out, err, code = node("get", "k", f"--at={at}")
    assert (out, code) == (b"", 128)
    assert err.startswith(b'Error: bad time ("') and b"expecting a duration as 10m" in err


def test_wrong_arguments(node):
    text = b"Error: `--at` and `--rev` cannot be set at the same time, choose one\n"
    assert node("get", "k", "--at=10m", "--rev=2") == (b"", text, 128)
    text = b"Error: bad time (-1s), expecting one in the past\n"
    assert node("get", "k", "--at=-1s") == (b"", text, 128)


def noted(node, revision: int, wait_until) -> datetime:
    """The second under which the server has noted this revision, its newest; it is over."""
    found: list[datetime] = []

    def is_noted() -> bool:
        _, err, code = node("get", "k", "--at=0s")
        match = NOTE.fullmatch(err.decode())
        assert match is not None and code == 0, err
        found.append(datetime.strptime(match[3], FORMAT))
        return int(match[2]) == revision

    wait_until(is_noted, "the revision to be noted")
    wait_until(lambda: time.gmtime()[:6] > found[-1].timetuple()[:6], "the next second")
    return found[-1]


def test_as_it_was(node, wait_until):
    seconds = []
    for value in ("1", "2", "3"):
        node.said("put", "k", value)
        seconds.append(noted(node, node.revision(), wait_until))
    assert sorted(set(seconds)) == seconds
    first = node.revision() - 2
    for number, second in enumerate(seconds):
        shown = second.strftime(FORMAT)
        out, err, code = node("get", "k", "--at", shown)
        assert (out.decode(), code) == (f"k\n{number + 1}\n", 0)
        assert err.decode() == f"at {shown}: revision {first + number}, of {shown}\n"
    # The same moment, named with another zone.
    shown = (seconds[0] + timedelta(hours=5)).strftime("%Y-%m-%dT%H:%M:%S+05:00")
    assert node("get", "k", "--at", shown, "--print-value-only")[0] == b"1\n"
    variables = {"ETCDCTL_ENDPOINTS": node.endpoint}
    assert run(["get", "k", "--at=0s"], variables)[0] == b"k\n3\n"
    assert b'"value":"3"' in node("get", "k", "--at=0s", "--decode")[0]
    assert node("get", "k", "--prefix", "--stream", "--at", shown)[0] == b"k\n1\n"
    node("compaction", str(first + 1))
    out, err, code = node("get", "k", "--at", seconds[0].strftime(FORMAT))
    assert (out, code) == (b"", 1)
    assert b"has been compacted" in err or b"no revision is known of" in err


def test_before_and_after(node, wait_until):
    node.said("put", "k", "1")
    noted(node, node.revision(), wait_until)
    out, err, code = node("get", "k", "--at=1999-12-31T23:59:59Z")
    assert (out, code) == (b"", 1)
    assert re.fullmatch(
        rb"Error: no revision is known of 1999-12-31T23:59:59Z: the server knows from \S+ on\n", err
    )
    out, err, code = node("get", "k", "--at=2999-01-01T00:00:00Z")
    assert (out, code) == (b"", 1)
    assert err.startswith(b"Error: 2999-01-01T00:00:00Z is to come: the server has 20")
    out, err, code = node("get", "k", "--at=2000000h")
    assert (out, code) == (b"", 1) and b"no revision is known of 1" in err
