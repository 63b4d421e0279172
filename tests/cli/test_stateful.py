"""Commands whose answer depends on what was done before: each program plays the same scene.

A scene starts and ends with the same cluster. Ids that a server makes up are blanked.
"""

import itertools
import re
import shlex

import pytest

from pyetcd.cli.client import ALARM, Client
from pyetcd.cli.ctl.run import run
from pyetcd.cli.dial import Settings
from pyetcd.proto import rpc_pb2 as rpc

LEASES = """
lease grant 100
lease grant 100 -w {format}
lease list -w {format}
lease list
put leased v --lease={lease}
get leased -w {format}
lease timetolive {lease} -w {format}
lease timetolive {lease} --keys -w {format}
lease timetolive {lease} --keys --hex
lease keep-alive {lease} --once -w {format}
put leased w --ignore-lease --prev-kv -w {format}
lease revoke {lease} -w {format}
get leased -w {format}
"""

MEMBERS = """
member add new --learner --peer-urls=http://127.0.0.1:{port},http://127.0.0.1:8 -w {format}
member list -w {format}
member list --hex -w {format}
member add other --learner --peer-urls=http://127.0.0.1:9
member add new --learner --peer-urls=http://127.0.0.1:{port}
endpoint status --cluster
member promote {member}
member update {member} --peer-urls=http://127.0.0.1:9 -w {format}
member list
member remove {member} -w {format}
member list
member remove {member}
"""

ALARMS = """
alarm list -w {format}
endpoint health -w {format}
endpoint status -w {format}
put k v
alarm disarm -w {format}
alarm list -w {format}
"""

# A member's id is made of its URLs and the second; an id that was removed never comes back.
PORTS = itertools.count(20001)
FORMATS = ("simple", "json", "fields", "table", "protobuf")


def play(judge, blank, scene: str, format: str, runner) -> list[str]:
    """The outcomes of a scene's commands, one text each."""
    env = {"ETCDCTL_ENDPOINTS": judge.endpoint}
    lease = member = "1"
    port = str(next(PORTS))
    outcomes = []
    for line in scene.strip().split("\n"):
        argv = shlex.split(line.format(format=format, lease=lease, member=member, port=port))
        out, err, code = runner(argv, env)
        if argv[:2] == ["lease", "grant"] and argv[-1] == "100":
            lease = out.split()[1].decode()
        if argv[:2] == ["member", "add"]:
            listed = run(["member", "list"], env)[0].decode()
            added = [row.split(",")[0] for row in listed.split("\n") if "unstarted" in row]
            member = added[0] if added else member
        if "protobuf" in argv and not out.isascii():
            out = b"binary"
        text = f"{line}\n{blank(out).decode('utf-8', 'replace')}"
        text += f"{blank(err).decode('utf-8', 'replace')}{code}\n"
        outcomes.append(_without_ids(text, lease, member).replace(port, "PORT"))
    return outcomes


def _without_ids(text: str, lease: str, member: str) -> str:
    for found, name in ((lease, "LEASE"), (member, "MEMBER")):
        if len(found) > 8:
            text = text.replace(found.zfill(16), name).replace(str(int(found, 16)), name)
            text = text.replace(found, name)
    text = re.sub(r"(?m)^[0-9a-f]{16}$", "ID", text)
    text = re.sub(r'"(ID|id|lease)":\d{17,}', r'"\1":ID', text)
    text = re.sub(r'"(ID|Lease)" : \d{17,}', r'"\1" : ID', text)
    text = re.sub(r"lease [0-9a-f]{16} granted", "lease ID granted", text)
    text = re.sub(r"0x[0-9a-f]+", "PTR", text)
    text = re.sub(r"Member +MEMBER", "Member MEMBER", text)  # %16x
    text = re.sub(r"revision:\d+", "revision:N", text)
    return re.sub(r"raft_term:\d+", "raft_term:N", text)


def _in_any_order(text: str) -> str:
    return " ".join(sorted(re.split(r'["\n,\[\]{}]+', text)))


@pytest.fixture
def clean(judge):
    """Leaves the cluster without leases and other members, whatever happens."""
    env = {"ETCDCTL_ENDPOINTS": judge.endpoint}

    def sweep() -> None:
        for lease in run(["lease", "list"], env)[0].decode().split("\n")[1:-1]:
            run(["lease", "revoke", lease], env)
        for row in run(["member", "list"], env)[0].decode().split("\n"):
            if "unstarted" in row:
                run(["member", "remove", row.split(",")[0]], env)
        run(["alarm", "disarm"], env)
        run(["del", "", "--prefix"], env)

    sweep()
    yield sweep
    sweep()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("scene", (LEASES, MEMBERS), ids=("leases", "members"))
def test_scene(judge, blank, clean, scene, format):
    expected = play(judge, blank, scene, format, judge.reference)
    clean()
    got = play(judge, blank, scene, format, run)
    if scene is MEMBERS:  # members are listed in the order of their ids, which are new each time
        expected = [_in_any_order(text) for text in expected]
        got = [_in_any_order(text) for text in got]
    assert got == expected


@pytest.mark.parametrize("format", FORMATS)
def test_alarms(judge, blank, clean, format):
    outcomes = []
    for runner in (judge.reference, run):
        raise_alarm(judge.endpoint)
        outcomes.append(play(judge, blank, ALARMS, format, runner))
    assert outcomes[1] == outcomes[0]


def raise_alarm(endpoint: str) -> None:
    client = Client([endpoint], Settings([endpoint], 2.0, 10000, 6000), warn=print)
    member = client.call(ALARM, rpc.AlarmRequest(), timeout_s=5).header.member_id
    request = rpc.AlarmRequest(action=rpc.AlarmRequest.ACTIVATE, memberID=member, alarm=rpc.NOSPACE)
    client.call(ALARM, request, timeout_s=5)
    client.close()
