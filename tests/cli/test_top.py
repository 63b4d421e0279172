"""`ctl top`: what a sample says, of which members; the table, the documents, the live view."""

import json
import sys
from typing import Any

import pytest
from screen import Screen

from pyetcd.cli import client as calls
from pyetcd.cli.client import Client, Settings
from pyetcd.cli.ctl.run import run
from pyetcd.cli.ctl.sample import Answer, Sampler, _row
from pyetcd.cli.printers.cluster import HEADER, View, cells
from pyetcd.proto import rpc_pb2 as rpc

CTL = [sys.executable, "-m", "pyetcd.cli.main", "ctl"]
FAST = "--interval=100ms"


def test_one_table(judge):
    out, err, code = run(["top", FAST, f"--endpoints={judge.endpoint}"])
    assert (err, code) == (b"", 0)
    headline, border, header, *rows = out.decode().splitlines()
    assert headline.startswith("cluster ") and "writes/s" in headline
    assert border.startswith("+--")
    assert [word.strip() for word in header.strip("|").split("|")] == [
        title.upper() for title in HEADER
    ]
    assert judge.endpoint in rows[1] and "leader" in rows[1] and rows[1].endswith(" ok |")
    for flags in (["--once"], ["-w", "simple"], ["-w", "table"], ["--plain"]):
        again = run(["top", FAST, f"--endpoints={judge.endpoint}", *flags])
        assert again[0].count(b"\n") == out.count(b"\n") and again[2] == 0


def test_documents(judge):
    argv = ["top", FAST, f"--endpoints={judge.endpoint}"]
    view = json.loads(run([*argv, "-w", "json"])[0])
    status = json.loads(run(["endpoint", "status", argv[-1], "-w", "json"])[0])[0]["Status"]
    (member,) = view["members"]
    assert view["cluster_id"] == f"{status['header']['cluster_id']:x}"
    assert member["id"] == f"{status['header']['member_id']:x}"
    assert (member["role"], member["lag"], member["marks"]) == ("leader", 0, [])
    assert member["version"] == status["version"]
    assert member["revision"] == view["revision"] == status["header"]["revision"]
    assert member["keys"] is not None and member["puts_s"] is not None
    assert run([*argv, "-w", "yaml"])[0].startswith(b"---\ncluster_id: ")
    assert run([*argv, "-w", "fields"])[1:] == (
        b"Error: fields not supported as output format\n",
        4,
    )


@pytest.mark.parametrize(
    ("flags", "code"),
    (
        (["x"], 128),
        (["--interval=1ms"], 128),
        (["--interval=x"], 1),
        (["-w", "nonsense"], 4),
        (["--cert="], 128),
    ),
)
def test_what_does_not_do(judge, flags, code):
    out = run(["top", f"--endpoints={judge.endpoint}", *flags])
    assert out[2] == code and b"Traceback" not in out[1]


def test_nobody_there(free_ports):
    (port,) = free_ports(1)
    argv = ["top", FAST, f"--endpoints=127.0.0.1:{port}"]
    out, err, code = run(argv)
    assert (err, code) == (b"", 1)
    assert b"dead: connection refused" in out
    view = json.loads(run([*argv, "-w", "json"])[0])
    assert (view["leader"], view["members"][0]["marks"]) == ("", ["dead"])
    assert run(["top", "--endpoints=nonsense", FAST])[2] == 1


def test_a_cluster(machine, wait_until):
    """All members from one endpoint; a learner, an alarm, a dead one, a lost quorum."""
    nodes = machine.cluster(3, "--strict-reconfig-check=false", program="etcd")
    for node in nodes:
        node.wait_healthy()
    argv = ["top", FAST, "-w", "json", f"--endpoints={nodes[0].endpoint}"]

    def look(*flags: str) -> tuple[dict[str, Any], int]:
        out, err, code = run([*argv, *flags])
        assert err == b""
        view = json.loads(out)
        view["members"] = {member["name"]: member for member in view["members"]}
        return view, code

    # An apply behind is no fault of the view: it is soon no more.
    wait_until(lambda: all(m["lag"] == 0 for m in look()[0]["members"].values()), "no lag")
    view, code = look()
    members = view["members"]
    assert (code, set(members)) == (0, {"m0", "m1", "m2"})
    assert [member["role"] for member in members.values()].count("leader") == 1
    assert members[view["leader"]]["role"] == "leader"
    for i, node in enumerate(nodes):
        assert members[f"m{i}"]["endpoint"].endswith(f":{node.client_port}")

    settings = Settings([nodes[0].endpoint], 2.0, 10_000, 6_000)
    client = Client(settings.endpoints, settings, warn=lambda line: None)
    request = rpc.AlarmRequest(
        action=rpc.AlarmRequest.ACTIVATE,
        memberID=int(members["m1"]["id"], 16),
        alarm=rpc.AlarmType.NOSPACE,
    )
    client.call(calls.ALARM, request, timeout_s=20)
    peer = "--peer-urls=http://127.0.0.1:1"
    added = run(["member", "add", "late", "--learner", peer, argv[-1]])
    assert added[2] == 0, added
    client.close()

    def is_told() -> bool:
        found = look()[0]["members"]
        return found["m1"]["alarms"] == ["NOSPACE"] and found[""]["role"] == "unstarted"

    wait_until(is_told, "the alarm and the learner")
    assert look()[1] == 0  # a member that has never started is not dead

    nodes[2].kill()

    def is_marked() -> bool:
        view, code = look()
        return code == 1 and view["members"]["m2"]["marks"] == ["dead"] and bool(view["leader"])

    wait_until(is_marked, "the dead member")
    nodes[1].kill()
    wait_until(lambda: "no leader" in look()[0]["members"]["m0"]["marks"], "no leader")


def test_users(machine):
    """A member that refuses is not dead; with a password it tells, and a wrong one says so."""
    endpoint = f"--endpoints={machine.single('pyetcd').endpoint}"
    made = b"user add root:r\nuser grant-role root root\nauth enable\n"
    assert run(["shell", endpoint], stdin=made)[2] == 0
    argv = ["top", FAST, "-w", "json", endpoint]
    out, err, code = run(argv)
    (member,) = json.loads(out)["members"]
    assert (member["marks"], err, code) == (["refused"], b"", 1)
    out, err, code = run([*argv, "--user=root:r"])
    assert (json.loads(out)["members"][0]["role"], err, code) == ("leader", b"", 0)
    assert run([*argv, "--user=root:wrong"])[2] == 2


def test_over_tls(machine, free_ports, tmp_path, wait_until):
    """/metrics, too."""
    client, peer = free_ports(2)
    url, peer_url = f"https://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    argv = [machine.etcd, f"--data-dir={tmp_path / 'data'}", "--auto-tls"]
    argv += [f"--listen-client-urls={url}", f"--advertise-client-urls={url}"]
    argv += [f"--listen-peer-urls={peer_url}", f"--initial-advertise-peer-urls={peer_url}"]
    machine.process(
        [*argv, f"--initial-cluster=default={peer_url}"], name="t", client_port=client
    ).start()
    flags = [f"--endpoints={url}", "--insecure-skip-tls-verify"]
    wait_until(lambda: run(["get", "k", "--command-timeout=1s", *flags])[2] == 0, "the server")
    out, err, code = run(["top", FAST, "-w", "json", *flags])
    (member,) = json.loads(out)["members"]
    assert (member["role"], member["keys"], err, code) == ("leader", 0, b"", 0)


def status(**fields: Any) -> rpc.StatusResponse:
    header = rpc.ResponseHeader(member_id=fields.pop("member_id", 1), revision=7)
    return rpc.StatusResponse(header=header, leader=1, raftTerm=2, **fields)


def answer(at_s: float, found: rpc.StatusResponse, took_s: float = 0.0, **metrics: float) -> Answer:
    return Answer(at_s, took_s, found, metrics, "")


MEMBER = rpc.Member(ID=2, name="m", clientURLs=["http://h:1"])


def test_marks():
    def marks(found: rpc.StatusResponse, took_s: float = 0.0) -> tuple[str, ...]:
        return _row(MEMBER, "h:1", answer(0, found, took_s), None, 2000, {}).marks

    assert marks(status(member_id=2, raftIndex=2000, raftAppliedIndex=1999)) == ()
    assert marks(status(member_id=2, raftIndex=2000, raftAppliedIndex=999)) == ("behind",)
    assert marks(status(member_id=2, raftAppliedIndex=2000), 0.3) == ("slow",)
    lost = status(member_id=2, raftAppliedIndex=2000)
    lost.leader = 0
    assert marks(lost) == ("no leader",)
    gone = Answer(0, 2.0, None, {}, "context deadline exceeded")
    row = _row(MEMBER, "h:1", gone, None, 2000, {})
    assert (row.marks, row.lag) == (("dead",), None)
    assert cells(row)[-1] == "dead: context deadline exceeded"
    assert _row(rpc.Member(ID=3), "", None, None, 0, {}).role == "unstarted"


def test_rates():
    before = answer(10.0, status(), etcd_mvcc_put_total=100, etcd_mvcc_range_total=5)
    now = answer(
        12.0,
        status(),
        etcd_mvcc_put_total=150,
        etcd_mvcc_range_total=4,  # a restart began it anew
        etcd_debugging_mvcc_keys_total=9,
        etcd_disk_wal_fsync_duration_seconds_sum=0.5,
        etcd_disk_wal_fsync_duration_seconds_count=100,
    )
    row = _row(MEMBER, "h:1", now, before, 0, {})
    assert (row.puts_s, row.reads_s, row.deletes_s) == (25.0, None, None)
    assert (row.keys, row.watchers, row.sync_ms) == (9, None, 5.0)
    assert _row(MEMBER, "h:1", now, None, 0, {}).puts_s is None


def test_each_member_is_asked_once(judge):
    """However often --endpoints names it."""
    host, port = judge.endpoint.split(":")
    names = [judge.endpoint, f"http://{judge.endpoint}", f"localhost:{port}"]
    sampler = Sampler(Settings(names, 2.0, 10_000, 6_000))
    try:
        view = sampler.look()
    finally:
        sampler.close()
    assert isinstance(view, View)
    assert [member.endpoint for member in view.members] == [judge.endpoint]
    assert host == "127.0.0.1"


@pytest.mark.parametrize("key", ("q", "\x03"))
def test_live_view(judge, key):
    env = {"ETCDCTL_ENDPOINTS": judge.endpoint, "NO_COLOR": "1" if key == "q" else ""}
    with Screen([*CTL, "top", FAST], env, columns=140) as screen:
        screen.expect("leader")
        screen.expect("q quits")
        screen.expect("q quits")
        assert not screen.is_line_mode()
        assert "\x1b[?1049h" in screen.raw
        assert ("\x1b[1;32m" in screen.raw) == (key != "q")
        screen.type(key)
        assert screen.wait() == 0
        assert "\x1b[?1049l" in screen.raw  # the old screen is back
        assert screen.is_line_mode()
        assert "Traceback" not in screen.text


def test_live_view_ends_by_a_signal_and_fits(judge):
    with Screen([*CTL, "top", FAST, f"--endpoints={judge.endpoint}"], {}, columns=40) as screen:
        screen.expect("q quits")
        assert "Raft Term" not in screen.text and "State" in screen.text
        screen.terminate()
        assert screen.wait() == 0
        assert "\x1b[?1049l" in screen.raw


def test_no_live_view_on_a_dumb_terminal(judge):
    env = {"ETCDCTL_ENDPOINTS": judge.endpoint, "TERM": "dumb"}
    with Screen([*CTL, "top", FAST], env) as screen:
        screen.expect("| MEMBER")
        assert screen.wait() == 0
        assert "\x1b" not in screen.raw
