"""Users, roles and tokens: facts 47 to 53."""

import base64
import json
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bcrypt
import grpc
import pytest
from certificates import Authority, Node
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.auth_pb2 import Permission

CHEAP = "--bcrypt-cost=4"
EMPTY = (3, "etcdserver: user name is empty")
BAD_TOKEN = (16, "etcdserver: invalid auth token")
DENIED = (7, "etcdserver: permission denied")
INVALID = (3, "etcdserver: invalid auth management")
FAILED = (3, "etcdserver: authentication failed, invalid user ID or password")
READ, WRITE, BOTH = Permission.READ, Permission.WRITE, Permission.READWRITE
TTL_S = 2
HASH = base64.b64encode(b"$2a$04") + rb"[A-Za-z0-9+/]{72}"


def revision(side: Any, metadata: Any = None) -> int:
    return int(side.raw("Auth.AuthStatus", metadata=metadata).authRevision)


def add_root(side: Any) -> None:
    side.raw("Auth.UserAdd", name="root", password="pass")
    side.raw("Auth.UserGrantRole", user="root", role="root")


def permit(side: Any, metadata: Any, kind: int, key: bytes, end: bytes = b"") -> None:
    """The right on a range, given to the role "role" of the user "user"."""
    perm = Permission(permType=kind, key=key, range_end=end)  # type: ignore[arg-type]
    side.raw("Auth.RoleGrantPermission", name="role", perm=perm, metadata=metadata)


def forbid(side: Any, metadata: Any) -> None:
    """Takes every right of the role."""
    for perm in side.raw("Auth.RoleGet", role="role", metadata=metadata).perm:
        fields = {"role": "role", "key": perm.key, "range_end": perm.range_end}
        side.raw("Auth.RoleRevokePermission", metadata=metadata, **fields)


def is_allowed(answer: Any) -> bool:
    assert answer == DENIED or not isinstance(answer, tuple), answer
    return not isinstance(answer, tuple)


# 47 and 48: what counts, and who must stay


def test_fact_47_auth_revision(side: Any) -> None:
    """It starts at 1 and grows by one with each change of users, roles and rights, and when
    authentication goes off; not when it goes on, nor with what changes nothing."""
    fresh = side.fresh(CHEAP)
    assert revision(fresh) == 1
    may = Permission(permType=READ, key=b"k")
    steps: list[tuple[str, dict[str, Any], int]] = [
        ("UserAdd", {"name": "root", "password": "pass"}, 1),
        ("UserAdd", {"name": "root", "password": "other"}, 0),  # exists
        ("UserGrantRole", {"user": "root", "role": "root"}, 1),
        ("UserGrantRole", {"user": "root", "role": "root"}, 0),  # has it already
        ("RoleAdd", {"name": "role"}, 1),
        ("RoleAdd", {"name": "role"}, 0),
        ("RoleGrantPermission", {"name": "role", "perm": may}, 1),
        ("RoleRevokePermission", {"role": "role", "key": b"k"}, 1),
        ("RoleRevokePermission", {"role": "role", "key": b"k"}, 0),
        ("UserChangePassword", {"name": "root", "password": "pass"}, 1),
        ("UserAdd", {"name": "user", "options": {"no_password": True}}, 1),
        ("UserGrantRole", {"user": "user", "role": "role"}, 1),
        ("UserRevokeRole", {"name": "user", "role": "role"}, 1),
        ("UserRevokeRole", {"name": "user", "role": "role"}, 0),
        ("RoleDelete", {"role": "role"}, 1),
        ("UserDelete", {"name": "user"}, 1),
        ("UserDelete", {"name": "user"}, 0),
        ("UserList", {}, 0),
        ("AuthDisable", {}, 0),  # it is off
        ("AuthEnable", {}, 0),
    ]
    now, before = 1, fresh.revision()
    metadata: Any = None
    for name, fields, more in steps:
        answer = fresh(f"Auth.{name}", **fields)
        assert isinstance(answer, tuple) or answer.header.revision == before
        now += more
        if name == "AuthEnable":
            metadata = fresh.login("root")
        assert revision(fresh, metadata) == now, name
    assert fresh("Auth.AuthEnable", metadata=metadata).header.revision == before  # it is on: fine
    assert revision(fresh, metadata) == now
    fresh.raw("Auth.AuthDisable", metadata=metadata)
    assert revision(fresh) == now + 1
    assert fresh("Auth.AuthDisable").header.revision == before
    assert revision(fresh) == now + 1


def test_fact_48_root_must_be_there(side: Any) -> None:
    """To turn authentication on, the user root must have the role root, which needs not have been
    made; while it is on neither can be taken away."""
    fresh = side.fresh(CHEAP)
    assert fresh("Auth.AuthEnable") == (9, "etcdserver: root user does not exist")
    fresh.raw("Auth.UserAdd", name="root", password="pass")
    assert fresh("Auth.AuthEnable") == (9, "etcdserver: root user does not have root role")
    fresh.raw("Auth.UserGrantRole", user="root", role="root")
    assert list(fresh("Auth.RoleList").roles) == []
    fresh.raw("Auth.AuthEnable")
    root = fresh.login("root")
    fresh.raw("Auth.RoleAdd", name="root", metadata=root)
    for name, fields in (
        ("UserDelete", {"name": "root"}),
        ("RoleDelete", {"role": "root"}),
        ("UserRevokeRole", {"name": "root", "role": "root"}),
    ):
        assert fresh(f"Auth.{name}", metadata=root, **fields) == INVALID
    fresh.raw("Auth.AuthDisable", metadata=root)
    assert not isinstance(fresh("Auth.UserRevokeRole", name="root", role="root"), tuple)
    assert not isinstance(fresh("Auth.RoleDelete", role="root"), tuple)
    assert not isinstance(fresh("Auth.UserDelete", name="root"), tuple)


# 49: tokens


def test_fact_49_a_simple_token(guarded: Any) -> None:
    """Sixteen letters, a dot and the index of the log's entry; sent as `token` or as
    `authorization`."""
    ((_, first),) = guarded.login("root")
    index = guarded.raw("Maintenance.Status", metadata=[("token", first)]).raftIndex
    ((_, second),) = guarded.login("root")
    assert re.fullmatch(r"[a-zA-Z]{16}\.\d+", first)
    assert int(second.split(".")[1]) == index + 1
    for name in ("token", "authorization"):
        for token in (first, second):
            assert guarded.get(b"k", metadata=[(name, token)]).count == 0


def test_fact_49_what_ends_a_token(side: Any) -> None:
    """A new password and the user's end; that authentication went off and on again."""
    fresh = side.fresh(CHEAP)
    add_root(fresh)
    fresh.raw("Auth.UserAdd", name="user", password="pass")
    fresh.raw("Auth.AuthEnable")
    root, user = fresh.login("root"), fresh.login("user")
    assert fresh.get(b"k", metadata=user) == DENIED
    change = {"name": "user", "password": "other"}
    fresh.raw("Auth.UserChangePassword", metadata=root, **change)
    assert fresh.get(b"k", metadata=user) == BAD_TOKEN
    user = fresh.login("user", "other")
    assert fresh.get(b"k", metadata=user) == DENIED
    fresh.raw("Auth.UserDelete", name="user", metadata=root)
    assert fresh.get(b"k", metadata=user) == BAD_TOKEN
    assert fresh.get(b"k", metadata=root).count == 0
    fresh.raw("Auth.AuthDisable", metadata=root)
    fresh.raw("Auth.AuthEnable")
    assert fresh.get(b"k", metadata=root) == BAD_TOKEN


def test_fact_49_how_long_a_token_lives(side: Any) -> None:
    """As long as it is used: its time begins again with each use. (It is 300 seconds; a flag makes
    it short here.)"""
    fresh = side.fresh(CHEAP, f"--auth-token-ttl={TTL_S}")
    add_root(fresh)
    fresh.raw("Auth.AuthEnable")
    used, unused = fresh.login("root"), fresh.login("root")
    last_s = time.monotonic()
    end_s = last_s + TTL_S + 1.3  # it is looked at once a second
    while time.monotonic() < end_s:
        asked_s = time.monotonic()
        answer = fresh.get(b"k", metadata=used)
        if time.monotonic() - last_s > TTL_S:  # too long ago to say: once more from here on
            used = fresh.login("root")
        else:
            assert answer.count == 0
        last_s = asked_s
        time.sleep(0.05)
    assert fresh.get(b"k", metadata=unused) == BAD_TOKEN


def claims(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


def test_fact_49_a_signed_token(side: Any, tmp_path: Path) -> None:
    """It says who, as of which revision and until when; after a change it is too old, which 3.5.1
    says with a raw text (docs/differences.md: a request of an older auth revision)."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    flag = f"--auth-token=jwt,pub-key={public},priv-key={private},sign-method=ES256,ttl=5m"
    fresh = side.fresh(CHEAP, flag)
    add_root(fresh)
    fresh.raw("Auth.AuthEnable")
    root = fresh.login("root")
    said = claims(root[0][1])
    assert set(said) == {"username", "revision", "exp"}
    assert (said["username"], said["revision"]) == ("root", revision(fresh, root))
    assert 200 < said["exp"] - time.time() <= 301
    assert fresh.put(b"k", metadata=root).header.revision == 2
    fresh.raw("Auth.RoleAdd", name="role", metadata=root)
    old = (2, "auth: revision in header is old")
    if not fresh.is_etcd:
        old = (3, "etcdserver: revision of auth store is old")
    assert fresh.put(b"k", metadata=root) == old
    assert fresh.get(b"k", metadata=root) == old
    assert fresh.get(b"k", metadata=fresh.login("root")).count == 1


# 50 and 51: who somebody is


def test_fact_50_without_a_good_token(guarded: Any) -> None:
    """None at all is an empty name, one that nobody has is not valid."""
    for unknown in ("nothing", "AAAAAAAAAAAAAAAA.1"):
        assert guarded.get(b"k", metadata=[("token", unknown)]) == BAD_TOKEN
        assert guarded.put(b"k", metadata=[("token", unknown)]) == BAD_TOKEN
    assert guarded.get(b"k") == guarded.put(b"k") == guarded.delete(b"k") == EMPTY
    assert guarded.txn(success=[rpc.RequestOp(request_range={"key": b"k"})]) == EMPTY


def test_fact_50_a_token_while_authentication_is_off(side: Any) -> None:
    """3.5.1 refuses it, pyetcd does not look at it (docs/differences.md: a token although
    authentication is off)."""
    answer = side.get(b"k", metadata=[("token", "nothing")])
    if side.is_etcd:
        assert answer == BAD_TOKEN
    else:
        assert answer.count == 0


def test_fact_51_the_certificate_names_the_user(side: Any, machine: Any) -> None:
    """The common name of a client's certificate is the user if there is no token; never of a
    request that comes by JSON, which is refused."""
    authority = Authority(machine.folder)
    server = authority.issue("server")
    files = [f"--cert-file={server.cert}", f"--key-file={server.key}"]
    trust = [f"--trusted-ca-file={authority.path}", "--client-cert-auth"]
    node = Node(machine, "cn", *files, *trust, CHEAP, program=side.program)
    pairs = {name: authority.issue(name) for name in ("root", "user", "stranger")}
    sides = {name: secure(side, node, authority, pair) for name, pair in pairs.items()}
    root, user, stranger = sides.values()
    add_root(root)
    root.raw("Auth.UserAdd", name="user", password="pass")
    root.raw("Auth.RoleAdd", name="role")
    root.raw("Auth.UserGrantRole", user="user", role="role")
    permit(root, None, BOTH, b"k")
    root.raw("Auth.AuthEnable")
    assert user("KV.Put", key=b"k", value=b"v").header.revision == 2
    assert user("KV.Range", key=b"k").kvs[0].value == b"v"
    assert user("KV.Put", key=b"l") == stranger("KV.Put", key=b"k") == DENIED
    assert root("KV.Put", key=b"l").header.revision == 3
    assert user("KV.Put", key=b"l", metadata=user.login("root")).header.revision == 4
    assert root("KV.Put", key=b"l", metadata=root.login("user")) == DENIED
    assert root("KV.Put", key=b"l", metadata=[("token", "nothing")]) == BAD_TOKEN
    marked = user("KV.Range", key=b"k", metadata=[("grpcgateway-accept", "json")])
    assert marked == EMPTY  # as the gateway marks its requests
    ignored = "CommonName of client sending a request against gateway will be ignored"
    status, said = by_json(node, authority, pairs["root"])
    assert status == 400 and said.startswith(ignored)
    for each in sides.values():
        each.close()


def secure(side: Any, node: Node, authority: Authority, pair: Any) -> Any:
    """A side whose channel shows a certificate, once the server is there."""
    made = type(side)(side.program, f"127.0.0.1:{node.client_port}", side.fresh)
    made.channel.close()
    read = [Path(path).read_bytes() for path in (authority.path, pair.key, pair.cert)]
    made.channel = grpc.secure_channel(made.endpoint, grpc.ssl_channel_credentials(*read))
    status = made.channel.unary_unary("/etcdserverpb.Maintenance/Status")
    status(b"", wait_for_ready=True, timeout=20)
    return made


def by_json(node: Node, authority: Authority, pair: Any) -> tuple[int, str]:
    context = ssl.create_default_context(cafile=authority.path)
    context.load_cert_chain(pair.cert, pair.key)
    url = f"{node.endpoint}/v3/kv/range"
    handler = urllib.request.HTTPSHandler(context=context)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), handler)
    with pytest.raises(urllib.error.HTTPError) as refused:
        opener.open(url, data=b'{"key": "aw=="}', timeout=20)
    with refused.value as answer:
        return answer.code, answer.read().decode()


# 52: who may what


@pytest.fixture
def permitted(guarded: Any) -> Iterator[Any]:
    """(ask, permit): calls in the user's name, and rights for him which the test's end takes."""
    root, user = guarded.login("root"), guarded.login("user")

    def give(kind: int, key: bytes, end: bytes = b"") -> None:
        permit(guarded, root, kind, guarded.key(key), guarded.key(end) if end > b"\0" else end)

    def ask(name: str, **fields: Any) -> bool:
        return is_allowed(guarded(name, metadata=user, **fields))

    yield ask, give, root
    forbid(guarded, root)


def test_fact_52_ranges_of_rights(guarded: Any, permitted: Any) -> None:
    """A range that is asked for must lie in what all rights together cover; `\\0` as an end is
    none."""
    ask, give, _ = permitted
    key = guarded.key
    give(READ, b"a", b"c")
    give(READ, b"c", b"e")
    give(WRITE, b"d", b"f")
    give(READ, b"x", b"\0")
    for start, end, is_readable in (
        (b"a", b"e", True),
        (b"b", b"d", True),
        (b"a", b"ea", False),
        (b"d", b"f", False),
        (b"Z", b"b", False),
    ):
        assert ask("KV.Range", key=key(start), range_end=key(end)) is is_readable
    assert ask("KV.Range", key=key(b"x"), range_end=b"\0")
    assert ask("KV.Range", key=key(b"y"), range_end=key(b"z"))
    assert not ask("KV.Range", key=key(b"w"), range_end=b"\0")
    assert not ask("KV.Range", key=b"\0", range_end=b"\0")
    for name, is_readable, is_writable in ((b"d", True, True), (b"e", False, True)):
        assert ask("KV.Range", key=key(name)) is is_readable
        assert ask("KV.Put", key=key(name)) is is_writable
        assert ask("KV.DeleteRange", key=key(name)) is is_writable
    assert not ask("KV.DeleteRange", key=key(b"c"), range_end=key(b"f"))


def test_fact_52_what_was_there_before_is_read(guarded: Any, permitted: Any) -> None:
    """A put or a delete that wants the previous value needs the right to read, too."""
    ask, give, _ = permitted
    give(WRITE, b"w")
    give(BOTH, b"b")
    for name, may_read in ((b"w", False), (b"b", True)):
        key = guarded.key(name)
        assert ask("KV.Put", key=key)
        assert ask("KV.DeleteRange", key=key)
        assert ask("KV.Put", key=key, prev_kv=True) is may_read
        assert ask("KV.DeleteRange", key=key, prev_kv=True) is may_read


def test_fact_52_the_keys_of_a_lease(guarded: Any, permitted: Any) -> None:
    """Who attaches a key to a lease, or revokes it, must be allowed to write all its keys."""
    ask, give, root = permitted
    give(WRITE, b"w")
    leases = [guarded("Lease.LeaseGrant", TTL=600, metadata=root).ID for _ in range(2)]
    for lease, other in zip(leases, (b"w", b"x"), strict=True):
        guarded.put(b"w", lease=lease, metadata=root)
        guarded.put(other, lease=lease, metadata=root)
    own, foreign = leases
    guarded.put(b"w", lease=own, metadata=root)
    assert ask("KV.Put", key=guarded.key(b"w"), lease=own)
    assert not ask("KV.Put", key=guarded.key(b"w"), lease=foreign)
    assert not ask("Lease.LeaseRevoke", ID=foreign)
    assert ask("Lease.LeaseRevoke", ID=own)
    guarded.raw("Lease.LeaseRevoke", ID=foreign, metadata=root)


def test_fact_52_what_needs_root(guarded: Any) -> None:
    """All of authentication but oneself and one's own roles, changes of members, defragmentation,
    snapshots and hashes."""
    user, root = guarded.login("user"), guarded.login("root")
    assert list(guarded("Auth.UserGet", name="user", metadata=user).roles) == ["role"]
    assert not isinstance(guarded("Auth.RoleGet", role="role", metadata=user), tuple)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("Auth.UserGet", {"name": "root"}),
        ("Auth.RoleGet", {"role": "root"}),
        ("Auth.UserList", {}),
        ("Auth.RoleList", {}),
        ("Auth.UserAdd", {"name": "new", "password": "p"}),
        ("Auth.UserDelete", {"name": "user"}),
        ("Auth.UserChangePassword", {"name": "user", "password": "p"}),
        ("Auth.UserGrantRole", {"user": "user", "role": "root"}),
        ("Auth.UserRevokeRole", {"name": "user", "role": "role"}),
        ("Auth.RoleAdd", {"name": "new"}),
        ("Auth.RoleDelete", {"role": "role"}),
        ("Auth.RoleGrantPermission", {"name": "role", "perm": Permission(key=b"k")}),
        ("Auth.RoleRevokePermission", {"role": "role", "key": b"k"}),
        ("Auth.AuthEnable", {}),
        ("Auth.AuthDisable", {}),
        ("Auth.AuthStatus", {}),
        ("Cluster.MemberAdd", {"peerURLs": ["http://127.0.0.1:1"]}),
        ("Cluster.MemberRemove", {"ID": 1}),
        ("Cluster.MemberUpdate", {"ID": 1, "peerURLs": ["http://127.0.0.1:1"]}),
        ("Cluster.MemberPromote", {"ID": 1}),
    ]
    for name, fields in calls:
        assert guarded(name, metadata=user, **fields) == DENIED, name
    raw = (2, "auth: permission denied")  # these say it without a code of its own
    for name in ("Defragment", "Hash", "HashKV"):
        assert guarded(f"Maintenance.{name}", metadata=user) == raw
        assert not isinstance(guarded(f"Maintenance.{name}", metadata=root), tuple)
    with pytest.raises(grpc.RpcError) as refused:
        list(guarded.raw("Maintenance.Snapshot", metadata=user))
    assert (refused.value.code().value[0], refused.value.details()) == raw
    assert len(list(guarded.raw("Maintenance.Snapshot", metadata=root))) > 1


def test_fact_52_what_3_5_1_lets_everybody_do(guarded: Any) -> None:
    """3.5.1 answers these without a token. pyetcd wants a user (docs/differences.md: Status,
    MemberList, LeaseGrant, LeaseTimeToLive, an alarm list without a token), root
    (docs/differences.md: Compact, MoveLeader, Downgrade, setting or disarming an alarm) or the
    right to read the keys (docs/differences.md: LeaseLeases, LeaseTimeToLive with keys)."""
    user, root = guarded.login("user"), guarded.login("root")
    self_id = guarded.raw("Maintenance.Status", metadata=root).header.member_id
    lease = guarded("Lease.LeaseGrant", TTL=600, metadata=root).ID
    guarded.put(b"k", lease=lease, metadata=root)
    at = guarded.put(b"k", lease=lease, metadata=root).header.revision
    anybody: list[tuple[str, dict[str, Any]]] = [
        ("Maintenance.Status", {}),
        ("Cluster.MemberList", {}),
        ("Maintenance.Alarm", {}),
        ("Lease.LeaseGrant", {"TTL": 60}),
        ("Lease.LeaseTimeToLive", {"ID": lease}),
    ]
    privileged: list[tuple[str, dict[str, Any]]] = [
        ("Maintenance.MoveLeader", {"targetID": self_id}),
        ("Maintenance.Alarm", {"action": rpc.AlarmRequest.ACTIVATE, "alarm": rpc.NONE}),
        ("Lease.LeaseLeases", {}),
        ("Lease.LeaseTimeToLive", {"ID": lease, "keys": True}),
        ("KV.Compact", {"revision": at}),
    ]
    for is_for_root, calls in ((False, anybody), (True, privileged)):
        for name, fields in calls:
            nobody = guarded(name, **fields)
            somebody = guarded(name, metadata=user, **fields)
            if guarded.is_etcd:
                assert not isinstance(nobody, tuple), name
                continue
            assert is_refused(nobody, EMPTY), name
            assert is_refused(somebody, DENIED) is is_for_root, name
            assert not isinstance(guarded(name, metadata=root, **fields), tuple), name
    guarded.raw("Lease.LeaseRevoke", ID=lease, metadata=root)


def is_refused(answer: Any, refusal: tuple[int, str]) -> bool:
    """With the code of its own, or as those who maintain say it."""
    text = refusal[1].replace("etcdserver:", "auth:")
    return answer in (refusal, (2, text))


# 53: passwords


def test_fact_53_passwords(side: Any) -> None:
    """They go through the log as bcrypt's hashes in base64, made by the server whatever hash is
    sent; one may be empty; who has none cannot log in; nobody can while authentication is off."""
    fresh = side.fresh(CHEAP)
    off = (9, "etcdserver: authentication is not enabled")
    assert fresh("Auth.Authenticate", name="root", password="pass") == off
    add_root(fresh)
    fresh.raw("Auth.UserAdd", name="empty", password="")
    fresh.raw("Auth.UserAdd", name="none", options={"no_password": True})
    sent = base64.b64encode(bcrypt.hashpw(b"secret", bcrypt.gensalt(4))).decode()
    fresh.raw("Auth.UserAdd", name="sent", hashedPassword=sent)
    (folder,) = (a.partition("=")[2] for a in fresh.process.argv if a.startswith("--data-dir="))
    files = [path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()]
    found = {each for data in files for each in re.findall(HASH, data)}
    hashes = [base64.b64decode(each) for each in found]
    for password, count in ((b"pass", 1), (b"", 2), (b"secret", 0)):
        assert sum(bcrypt.checkpw(password, each) for each in hashes) == count
    fresh.raw("Auth.AuthEnable")
    for name, right in (("root", "pass"), ("empty", ""), ("sent", "")):
        assert fresh("Auth.Authenticate", name=name, password=right).token
        assert fresh("Auth.Authenticate", name=name, password="secret") == FAILED
    assert fresh("Auth.Authenticate", name="nobody", password="pass") == FAILED
    refused = fresh("Auth.Authenticate", name="none", password="pass")
    assert refused == (2, "auth: authentication failed, password was given for no password user")
