"""Authentication over restarts, kills, snapshots and members, and beside the real etcd.

Historic bugs of etcd are named by their row in docs/regressions.md.
"""

import concurrent.futures
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from pyetcd.cli.ctl.run import run as ctl
from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.auth_pb2 import Permission
from pyetcd.proto.services import METHODS

CHEAP = "--bcrypt-cost=4"


class Client:
    """Calls by method name, in somebody's name; a refusal is (code, text)."""

    def __init__(self, endpoint):
        self.channel = grpc.insecure_channel(endpoint, [("grpc.enable_http_proxy", 0)])

    def __call__(self, name, token="", /, **fields):
        method = METHODS[f"/etcdserverpb.{name}"]
        call = self.channel.unary_unary(
            method.path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=method.response.FromString,
        )
        metadata = (("token", token),) if token else ()
        try:
            return call(method.request(**fields), metadata=metadata, timeout=15)
        except grpc.RpcError as error:
            return error.code().name, error.details()

    def login(self, name, password="pw"):
        return self("Auth/Authenticate", name=name, password=password).token


@pytest.fixture
def client():
    made = []

    def make(process):
        made.append(Client(process.endpoint))
        return made[-1]

    yield make
    for each in made:
        each.channel.close()


def setup(ask, *, enable=True):
    """root, and ann who may read and write [a, b)."""
    for user in ("root", "ann"):
        ask("Auth/UserAdd", name=user, password="pw")
    ask("Auth/UserGrantRole", user="root", role="root")
    ask("Auth/RoleAdd", name="r")
    may = Permission(permType=Permission.READWRITE, key=b"a", range_end=b"b")
    ask("Auth/RoleGrantPermission", name="r", perm=may)
    ask("Auth/UserGrantRole", user="ann", role="r")
    if enable:
        ask("Auth/AuthEnable")


DENIED = ("PERMISSION_DENIED", "etcdserver: permission denied")
BAD_TOKEN = ("UNAUTHENTICATED", "etcdserver: invalid auth token")
EMPTY = ("INVALID_ARGUMENT", "etcdserver: user name is empty")


def state(ask, token):
    """All of users, roles and rights, as root sees it."""
    users = ask("Auth/UserList", token).users
    roles = ask("Auth/RoleList", token).roles
    return (
        ask("Auth/AuthStatus", token).authRevision,
        [(user, list(ask("Auth/UserGet", token, name=user).roles)) for user in users],
        [(role, list(ask("Auth/RoleGet", token, role=role).perm)) for role in roles],
    )


def test_three_members_share_tokens_and_keep_users_over_a_restart(machine, client):
    nodes = machine.cluster(3, CHEAP)
    asks = [client(node.wait_healthy()) for node in nodes]
    setup(asks[0])
    # A token is good at any member at once, also at one that has not applied its entry yet.
    for number in range(10):
        token = asks[number % 3].login("ann")
        others = [asks[(number + 1) % 3], asks[(number + 2) % 3]]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            asked = [pool.submit(ask, "KV/Put", token, key=b"a", value=b"v") for ask in others]
            answers = [each.result() for each in asked]
        assert not any(isinstance(answer, tuple) for answer in answers), answers
    for ask in asks:
        assert ask("KV/Put", token, key=b"b", value=b"v") == DENIED
        assert ask("KV/Range", key=b"a") == EMPTY
        read = ask("KV/Range", token, key=b"b", serializable=True)
        assert read == DENIED
    before = [state(ask, ask.login("root")) for ask in asks]
    assert before[0] == before[1] == before[2]
    for node in nodes:
        node.kill()
    for node in nodes:
        node.start()
    for node, ask in zip(nodes, asks, strict=True):
        node.wait_healthy()
        assert ask("KV/Range", key=b"a") == EMPTY
        assert state(ask, ask.login("root")) == before[0]
        assert ask("KV/Put", ask.login("ann"), key=b"a", value=b"v").header.revision
    # Taken away at one, gone at all.
    token = asks[1].login("ann")
    root = asks[0].login("root")
    asks[0]("Auth/UserRevokeRole", root, name="ann", role="r")
    for ask in asks:
        assert ask("KV/Put", token, key=b"a", value=b"v") == DENIED
        assert ask("KV/Range", token, key=b"a") == DENIED
    asks[2]("Auth/UserChangePassword", root, name="ann", password="new")
    for ask in asks:
        assert ask("KV/Range", token, key=b"a") == BAD_TOKEN
    asks[2]("Auth/AuthDisable", root)
    for ask in asks:
        assert ask("KV/Range", token, key=b"a").count == 1
    hashes = {ask("Maintenance/HashKV").hash for ask in asks}
    assert len(hashes) == 1


def test_row_6_a_follower_restored_by_a_snapshot_has_the_same_rights(machine, client, wait_until):
    """etcd#14571: rights were those from before the snapshot, and members diverged."""
    nodes = machine.cluster(
        3, CHEAP, "--snapshot-count=100", "--experimental-snapshot-catchup-entries=50"
    )
    asks = [client(node.wait_healthy()) for node in nodes]
    setup(asks[0])
    statuses = [ask("Maintenance/Status", ask.login("root")) for ask in asks]
    ids = [status.header.member_id for status in statuses]
    behind = next(at for at, id in enumerate(ids) if id != statuses[0].leader)
    assert asks[behind]("KV/Put", asks[behind].login("ann"), key=b"a", value=b"v").header.revision
    late, others = asks[behind], [ask for at, ask in enumerate(asks) if at != behind]
    nodes[behind].kill()
    ask = others[0]
    root = ask.login("root")
    ask("Auth/UserRevokeRole", root, name="ann", role="r")
    ask("Auth/UserAdd", root, name="bob", password="pw")
    ask("Auth/UserGrantRole", root, user="bob", role="r")
    call = ask.channel.unary_unary("/etcdserverpb.KV/Put")
    pending = [
        call.future(
            rpc.PutRequest(key=b"k%d" % n, value=b"v").SerializeToString(),
            metadata=(("token", root),),
            timeout=60,
        )
        for n in range(600)
    ]
    for each in pending:
        each.result()
    running = [node for at, node in enumerate(nodes) if at != behind]
    wait_until(lambda: all("compacted Raft logs" in node.log for node in running), "the cut")
    nodes[behind].start().wait_healthy()
    assert "snapshot" in nodes[behind].log
    tokens = {name: late.login(name) for name in ("ann", "bob", "root")}
    for each in asks:
        assert each("KV/Put", tokens["ann"], key=b"a", value=b"1") == DENIED
        assert each("KV/Put", tokens["bob"], key=b"a", value=b"2").header.revision
        assert each("KV/Put", tokens["bob"], key=b"b", value=b"3") == DENIED
    assert len({repr(state(each, tokens["root"])) for each in asks}) == 1
    assert len({each("Maintenance/HashKV", tokens["root"]).hash for each in asks}) == 1


def test_row_7_killed_between_auth_changes_and_puts(machine, client):
    """etcd PR 11652: what was replayed was applied a second time, with other rights."""
    node = machine.single("pyetcd", CHEAP)
    ask = client(node)
    setup(ask)
    may = Permission(permType=Permission.READWRITE, key=b"a", range_end=b"b")
    accepted = 0
    for step in range(2):
        root, ann = ask.login("root"), ask.login("ann")
        accepted += ask("KV/Put", ann, key=b"a", value=b"%d" % step) not in (DENIED,)
        ask("Auth/RoleRevokePermission", root, role="r", key=b"a", range_end=b"b")
        assert ask("KV/Put", ann, key=b"a", value=b"no") == DENIED
        ask("Auth/UserAdd", root, name=f"u{step}", password="pw")
        if step != 1:
            ask("Auth/RoleGrantPermission", root, name="r", perm=may)
        before = state(ask, root), ask("Maintenance/HashKV", root).hash
        node.kill()
        node.start().wait_healthy()
        root = ask.login("root")
        assert (state(ask, root), ask("Maintenance/HashKV", root).hash) == before
        if step == 1:
            ask("Auth/RoleGrantPermission", root, name="r", perm=may)
    assert accepted == 2
    assert ask("KV/Range", ask.login("ann"), key=b"a").kvs[0].version == 2


def test_row_25_a_lease_expires_while_auth_is_on(machine, client, wait_until):
    """etcd#13975: the revoke was refused, for the leader's own token had run out."""
    node = machine.single("pyetcd", CHEAP, "--auth-token-ttl=1")
    ask = client(node)
    setup(ask)
    for id in (5, -5):
        root = ask.login("root")
        ask("Lease/LeaseGrant", root, ID=id, TTL=2)
        ask("KV/Put", root, key=b"bound%d" % id, value=b"v", lease=id)
    time.sleep(1.2)  # every token has run out
    assert ask("KV/Range", root, key=b"x") == BAD_TOKEN

    def gone():
        root = ask.login("root")
        found = ask("KV/Range", root, key=b"bound", range_end=b"c")
        return found.count == 0 and not ask("Lease/LeaseLeases", root).leases

    wait_until(gone, "the leases to end", 10)


@pytest.mark.parametrize("program", ["etcd", "pyetcd"])  # etcd first: it judges the script
def test_real_clients_with_a_password(machine, client, program):
    node = machine.single(program, CHEAP)
    setup(client(node))
    script = Path(__file__).parent / "clients" / "use_auth.py"
    done = machine.run(sys.executable, str(script), *node.endpoint.split(":"), check=False)
    assert done.stdout == "ok\n", done.stderr


@pytest.fixture(scope="module")
def key_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    made = rsa.generate_private_key(65537, 2048)
    private, public = folder / "key.pem", folder / "key.pub"
    private.write_bytes(
        made.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        made.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


@pytest.mark.parametrize("method", ["RS256", "PS384"])
def test_jwt_of_each_is_good_at_the_other(machine, client, key_files, method):
    private, public = key_files
    flag = f"--auth-token=jwt,pub-key={public},priv-key={private},sign-method={method},ttl=1h"
    ours, theirs = (client(machine.single(each, CHEAP, flag)) for each in ("pyetcd", "etcd"))
    for ask in (ours, theirs):
        setup(ask)
    for signer in (ours, theirs):
        token = signer.login("ann")
        for ask in (ours, theirs):
            assert ask("KV/Put", token, key=b"a", value=b"v").header.revision
            assert ask("KV/Put", token, key=b"b", value=b"v") == DENIED
            assert ask("KV/Put", token + "x", key=b"a", value=b"v") == BAD_TOKEN
    # A later revision: 3.5.1 answers with a raw text, later releases so that clients understand.
    for ask in (ours, theirs):
        ask("Auth/RoleAdd", ask.login("root"), name="new")
    assert theirs("KV/Range", token, key=b"a") == ("UNKNOWN", "auth: revision in header is old")
    old = ("INVALID_ARGUMENT", "etcdserver: revision of auth store is old")
    assert ours("KV/Range", token, key=b"a") == old
    assert ours("KV/Put", token, key=b"a", value=b"v") == old


@pytest.mark.parametrize("text", ["jwt,sign-method=RS256", "other", "jwt,sign-method=none"])
def test_tokens_that_cannot_be_made_stop_the_start(machine, text):
    done = machine.run(
        machine.pyetcd, "server", f"--auth-token={text}", "--data-dir=d", check=False
    )
    assert done.returncode != 0 and "auth: " in done.stderr and "Traceback" not in done.stderr
    assert not (machine.folder / "d").exists()


# One line is one command of etcdctl. "<<" starts stdin, in which "|" stands for a line's end; {f}
# is each format in turn.
COMMANDS = """
user add root:rpw
user add ann:apw -w json
user add bob --no-password
user add ann:x
user add
user add :x
user add cy << one|one|
user add dee << one|two|
user add eve << |
user add fay --interactive=false << two words|
user add gus --new-user-password=secret -w fields
role add r
role add r
role add r2 -w fields
role grant-permission r readwrite a --prefix
role grant-permission r READ "k" "m" -w json
role grant-permission r write z --from-key
role grant-permission r nonsense z
role grant-permission r read a b --prefix
role grant-permission r read a b --from-key
role grant-permission r read a --from-key --prefix
role grant-permission r read "" --from-key --prefix
role grant-permission r
role grant-permission none read x
role grant-permission r2 readwrite "" --prefix
role get r -w {f}
role get r2
role get none
role list -w {f}
role revoke-permission r2 ""
role revoke-permission r2 "" --from-key
role revoke-permission r k m
role revoke-permission r z --from-key
role revoke-permission r
user grant-role ann r
user grant-role ann none
user grant-role ann
user get ann -w {f}
user get ann --detail -w fields
user get ann --detail
user get none
user list -w table
user list
user list x
auth status -w {f}
auth enable x
auth enable
auth status --user root:rpw
auth enable --user root:rpw
put a1 v
put a1 v --user ann:apw
put b1 v --user ann:apw
put a1 v --user ann:wrong
put a1 v --user bob:x
put a1 v --user nobody:x
put a1 v --user ann --password apw
put a1 v --user ann << apw|
get a --prefix --user ann:apw
get "" --prefix --user ann:apw
get k --user ann:apw
put k v --user ann:apw
user get ann --user ann:apw
user get root --user ann:apw
user get ann --detail --user ann:apw
role get r --user ann:apw
role get root --user ann:apw
user list --user ann:apw
role grant-permission r write z --from-key --user root:rpw
put z9 v --user ann:apw
get z9 --user ann:apw
del z9 --user ann:apw
del z9 --prev-kv --user ann:apw
put z9 v --prev-kv --user ann:apw
user passwd ann --user ann:apw --interactive=false << new
user passwd ann --user root:rpw --interactive=false << new
put a1 v2 --user ann:apw
put a1 v2 --user ann:new
role revoke-permission r a --prefix --user root:rpw
role revoke-permission r a --prefix --user root:rpw
put a1 v3 --user ann:new
user revoke-role ann r --user root:rpw
user revoke-role ann r --user root:rpw -w fields
user revoke-role root root --user root:rpw
user delete root --user root:rpw
role delete root --user root:rpw
role delete r --user root:rpw
role delete r2 --user root:rpw -w table
user delete bob --user root:rpw
user delete bob --user root:rpw
lease list --user root:rpw
member list --user root:rpw
defrag --user ann:new
move-leader 1234 --user root:rpw
auth disable --user ann:new
auth disable --user root:rpw
auth disable
get a1
user list
"""
FORMATS = ("simple", "json", "fields", "table", "protobuf")


def lines():
    for line in filter(None, COMMANDS.splitlines()):
        yield from ([line.replace("{f}", f) for f in FORMATS] if "{f}" in line else [line])


def shown(out, err, code, process):
    """What a command said, without ids, log lines and what stty says where there is no terminal."""
    text = out.decode(errors="backslashreplace")
    noise = ("{", "stty: ")
    told = [line for line in err.decode().splitlines() if not line.startswith(noise)]
    port = process.endpoint.rpartition(":")[2]
    for pattern, instead in (
        (r'"(cluster_id|member_id|raft_term)":\d+', r'"\1":N'),
        (r'"(ClusterID|MemberID|RaftTerm)" : \d+', r'"\1" : N'),
        (r"\b[0-9a-f]{15,16}\b|http://[^ ,]*|(pyetcd|etcd)-\d+", "X"),
        (port, "PORT"),
    ):
        text = re.sub(pattern, instead, text)
        told = [re.sub(pattern, instead, line) for line in told]
    return text, told, code


def test_the_same_command_lines_of_etcdctl_and_ctl(machine):
    """Real etcd asked by etcdctl, pyetcd asked by etcdctl, pyetcd asked by `pyetcd ctl`."""
    judge, ours, other = (machine.single(each, CHEAP) for each in ("etcd", "pyetcd", "pyetcd"))
    different = []

    def etcdctl(process, argv, stdin):
        program = [machine.etcdctl, f"--endpoints={process.endpoint}", *argv]
        done = subprocess.run(program, input=stdin, capture_output=True, timeout=30)
        return shown(done.stdout, done.stderr, done.returncode, process)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        for line in lines():
            command, _, typed = line.partition(" << ")
            argv, stdin = shlex.split(command), typed.replace("|", "\n").encode()
            said = [pool.submit(etcdctl, each, argv, stdin) for each in (judge, ours)]
            mine = ctl([f"--endpoints={other.endpoint}", *argv], {}, stdin)
            texts = [*(each.result() for each in said), shown(*mine, other)]
            if "protobuf" in argv and texts[0][2] == 0:  # its header has the ids
                texts = [("", *each[1:]) for each in texts]
            if not texts[0] == texts[1] == texts[2]:
                different.append((line, texts))
    assert not different, "\n".join(map(str, different))


def mixed(machine, free_ports):
    """Two members of etcd and one of pyetcd."""
    ports = free_ports(6)
    clients, peers = ports[:3], ports[3:]
    cluster = ",".join(f"m{i}=http://127.0.0.1:{peer}" for i, peer in enumerate(peers))
    nodes = []
    for i, head in enumerate(([machine.etcd], [machine.etcd], [machine.pyetcd, "server"])):
        argv = [
            *head,
            f"--name=m{i}",
            f"--data-dir={machine.folder / f'm{i}'}",
            f"--listen-client-urls=http://127.0.0.1:{clients[i]}",
            f"--advertise-client-urls=http://127.0.0.1:{clients[i]}",
            f"--listen-peer-urls=http://127.0.0.1:{peers[i]}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peers[i]}",
            f"--initial-cluster={cluster}",
            CHEAP,
        ]
        nodes.append(machine.process(argv, name=f"m{i}", client_port=clients[i]).start())
    return [node.wait_healthy() for node in nodes]


def test_members_of_both_know_each_others_users_and_tokens(machine, client, free_ports):
    asks = [client(node) for node in mixed(machine, free_ports)]
    setup(asks[2], enable=False)
    asks[0]("Auth/UserAdd", name="bob", password="other")  # hashed by the real etcd
    asks[0]("Auth/UserGrantRole", user="bob", role="r")
    asks[0]("Auth/AuthEnable")
    for ask in asks:
        for name, password in (("ann", "pw"), ("bob", "other")):
            token = ask.login(name, password)
            for other in asks:
                assert other("KV/Put", token, key=b"a", value=name.encode()).header.revision
                assert other("KV/Put", token, key=b"b", value=b"v") == DENIED
                assert other("KV/Range", token, key=b"a").kvs[0].value == name.encode()
    root = asks[1].login("root")
    asks[2]("Auth/UserChangePassword", root, name="bob", password="changed")
    for ask in asks:
        assert ask("KV/Range", token, key=b"a") == BAD_TOKEN
        assert ask("KV/Range", ask.login("bob", "changed"), key=b"a").count == 1
    assert len({repr(state(ask, root)) for ask in asks}) == 1
    assert len({ask("Maintenance/HashKV", root).hash for ask in asks}) == 1


@pytest.mark.parametrize("alarm", [rpc.NOSPACE, rpc.CORRUPT])
def test_an_alarm_opens_no_door(machine, client, alarm):
    """In 3.5.1 the applier of an alarm takes the place of the one that judges permissions."""
    answers = []
    for program, cheap in (("pyetcd", [CHEAP]), ("etcd", [CHEAP])):
        ask = client(machine.single(program, *cheap))
        ask("KV/Put", key=b"z", value=b"v")
        setup(ask)
        root, ann = ask.login("root"), ask.login("ann")
        ask("Maintenance/Alarm", root, action=1, memberID=1, alarm=alarm)
        answers.append(ask("KV/DeleteRange", ann, key=b"z"))
    ours, real = answers
    assert ours == ("PERMISSION_DENIED", "etcdserver: permission denied")
    if alarm == rpc.NOSPACE:
        assert real.deleted == 1
    else:
        assert real == ("DATA_LOSS", "etcdserver: corrupt cluster")
