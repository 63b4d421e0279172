"""Users, roles and rights as entries make them; SURFACE items 47, 48, 51 to 53."""

import base64
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyetcd.proto import errors
from pyetcd.proto.auth_pb2 import Permission
from pyetcd.proto.keys import FROM_KEY, contains, is_empty
from pyetcd.proto.raft_internal_pb2 import InternalAuthenticateRequest, InternalRaftRequest
from pyetcd.proto.rpc_pb2 import (
    CORRUPT,
    NOSPACE,
    AlarmRequest,
    AuthDisableRequest,
    AuthEnableRequest,
    AuthRoleAddRequest,
    AuthRoleDeleteRequest,
    AuthRoleGetRequest,
    AuthRoleGrantPermissionRequest,
    AuthRoleRevokePermissionRequest,
    AuthStatusRequest,
    AuthUserAddRequest,
    AuthUserChangePasswordRequest,
    AuthUserDeleteRequest,
    AuthUserGetRequest,
    AuthUserGrantRoleRequest,
    AuthUserListRequest,
    AuthUserRevokeRoleRequest,
    CompactionRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from pyetcd.raft.types import Entry
from pyetcd.store.grants import Grants, is_permission_range
from pyetcd.store.tokens import TOKENS_MAX, SimpleTokens, index_of

READ, WRITE, READWRITE = Permission.READ, Permission.WRITE, Permission.READWRITE
HASHED = base64.b64encode(b"$2a$04$hash").decode()

# -- merged ranges

BYTES = st.binary(min_size=1, max_size=2).map(lambda b: bytes(x % 4 for x in b))
ENDS = st.one_of(st.just(b""), st.just(FROM_KEY), BYTES)
UNIVERSE = (
    [bytes((a,)) for a in range(6)]
    + [bytes((a, b)) for a in range(6) for b in range(6)]
    + [bytes((a, b, 0)) for a in range(6) for b in range(6)]
)


@given(st.lists(st.tuples(BYTES, ENDS), max_size=5), BYTES, ENDS)
def test_merged_ranges_are_those_of_a_dumb_twin(
    permissions: list[tuple[bytes, bytes]], key: bytes, end: bytes
) -> None:
    """Key by key, over a universe that is finer than what is drawn; an empty request is judged by
    its start."""
    grants = Grants(
        [Permission(permType=READ, key=k, range_end=e) for k, e in permissions], is_root=False
    )
    asked = [key] if is_empty(key, end) else [k for k in UNIVERSE if contains(key, end, k)]
    if end == FROM_KEY:
        asked.append(b"\xff" * 9)
    twin = all(
        any(contains(k, e, one) for k, e in permissions if is_permission_range(k, e))
        for one in asked
    )
    assert grants.read.covers(key, end) is twin
    assert not grants.write.covers(key, end)


def test_the_worked_example() -> None:
    grants = Grants(
        [
            Permission(permType=READ, key=b"a", range_end=b"c"),
            Permission(permType=READWRITE, key=b"b", range_end=b"e"),
            Permission(permType=READ, key=b"k"),
        ],
        is_root=False,
    )
    assert grants.read.covers(b"b", b"d") and grants.read.covers(b"a", b"e")
    assert not grants.read.covers(b"b", b"f") and not grants.read.covers(b"k", b"l")
    assert grants.read.covers(b"k", b"") and not grants.write.covers(b"k", b"")
    assert not grants.write.covers(b"a", b"c") and grants.write.covers(b"b", b"c")


# -- the state


def setup(machine: Any) -> None:
    """root, and `ann` who may read and write [a, b)."""
    for user in ("root", "ann"):
        machine.do(auth_user_add=AuthUserAddRequest(name=user, hashedPassword=HASHED))
    machine.do(auth_user_grant_role=AuthUserGrantRoleRequest(user="root", role="root"))
    machine.do(auth_role_add=AuthRoleAddRequest(name="r"))
    machine.do(auth_role_grant_permission=grant("r", READWRITE, b"a", b"b"))
    machine.do(auth_user_grant_role=AuthUserGrantRoleRequest(user="ann", role="r"))


def enable(machine: Any) -> None:
    setup(machine)
    machine.do(auth_enable=AuthEnableRequest())


def grant(role: str, kind: Any, key: bytes, end: bytes = b"") -> AuthRoleGrantPermissionRequest:
    permission = Permission(permType=kind, key=key, range_end=end)
    return AuthRoleGrantPermissionRequest(name=role, perm=permission)


def named(machine: Any, user: str, revision: int | None = None, **request: Any) -> Any:
    """An entry in somebody's name, as of the revision now."""
    machine.index += 1
    header = {
        "ID": machine.index,
        "username": user,
        "auth_revision": machine.auth.revision if revision is None else revision,
    }
    data = InternalRaftRequest(header=header, **request).SerializeToString()
    applied = machine.applier.apply(Entry(1, machine.index, data=data))
    machine.backend.set_applied(machine.index, 1)
    if isinstance(applied.answer, errors.EtcdError):
        raise applied.answer
    return applied.answer


def test_item_47_the_revision_counts_changes(machine: Any) -> None:
    def moves(**request: Any) -> int:
        before = machine.auth.revision
        machine.do(**request)
        return int(machine.auth.revision - before)

    assert machine.auth.revision == 1
    setup(machine)
    assert machine.auth.revision == 7
    assert moves(auth_user_grant_role=AuthUserGrantRoleRequest(user="ann", role="r")) == 0
    assert moves(auth_enable=AuthEnableRequest()) == 0
    with pytest.raises(errors.UserEmpty):
        machine.do(auth_disable=AuthDisableRequest())
    named(machine, "root", auth_disable=AuthDisableRequest())
    assert machine.auth.revision == 8
    assert moves(auth_disable=AuthDisableRequest()) == 0
    assert moves(auth_user_get=AuthUserGetRequest(name="ann")) == 0
    assert moves(auth_role_grant_permission=grant("r", READ, b"a", b"b")) == 1
    change = AuthUserChangePasswordRequest(name="ann", hashedPassword=HASHED)
    assert moves(auth_user_change_password=change) == 1
    revoke = AuthUserRevokeRoleRequest(name="ann", role="r")
    assert moves(auth_user_revoke_role=revoke) == 1
    revoke_key = AuthRoleRevokePermissionRequest(role="r", key=b"a", range_end=b"b")
    assert moves(auth_role_revoke_permission=revoke_key) == 1
    assert moves(auth_role_delete=AuthRoleDeleteRequest(role="r")) == 1
    assert moves(auth_user_delete=AuthUserDeleteRequest(name="ann")) == 1
    for refused in (
        {"auth_user_delete": AuthUserDeleteRequest(name="ann")},
        {"auth_role_delete": AuthRoleDeleteRequest(role="r")},
        {"auth_user_add": AuthUserAddRequest(name="root")},
    ):
        before = machine.auth.revision
        assert machine.apply(**refused).error is not None
        assert machine.auth.revision == before


def test_item_48_root_stays(machine: Any) -> None:
    with pytest.raises(errors.RootUserNotExist):
        machine.do(auth_enable=AuthEnableRequest())
    machine.do(auth_user_add=AuthUserAddRequest(name="root"))
    with pytest.raises(errors.RootRoleNotExist):
        machine.do(auth_enable=AuthEnableRequest())
    machine.do(auth_user_grant_role=AuthUserGrantRoleRequest(user="root", role="root"))
    machine.do(auth_role_add=AuthRoleAddRequest(name="root"))
    machine.do(auth_enable=AuthEnableRequest())
    for refused in (
        {"auth_user_delete": AuthUserDeleteRequest(name="root")},
        {"auth_role_delete": AuthRoleDeleteRequest(role="root")},
        {"auth_user_revoke_role": AuthUserRevokeRoleRequest(name="root", role="root")},
    ):
        with pytest.raises(errors.InvalidAuthMgmt):
            named(machine, "root", **refused)
    named(machine, "root", auth_enable=AuthEnableRequest())  # again: nothing happens
    named(machine, "root", auth_disable=AuthDisableRequest())
    machine.do(auth_user_delete=AuthUserDeleteRequest(name="root"))


def test_rights_of_a_user(machine: Any) -> None:
    enable(machine)
    named(machine, "ann", put=PutRequest(key=b"a1", value=b"v"))
    for refused in (
        {"put": PutRequest(key=b"b")},
        {"range": RangeRequest(key=b"a", range_end=b"c")},
        {"range": RangeRequest(key=b"a", range_end=FROM_KEY)},
        {"auth_user_list": AuthUserListRequest()},
        {"auth_user_get": AuthUserGetRequest(name="root")},
        {"auth_role_get": AuthRoleGetRequest(role="other")},
    ):
        with pytest.raises(errors.PermissionDenied):
            named(machine, "ann", **refused)
    assert named(machine, "ann", auth_user_get=AuthUserGetRequest(name="ann")).roles == ["r"]
    named(machine, "ann", auth_role_get=AuthRoleGetRequest(role="r"))
    with pytest.raises(errors.PermissionDenied):
        named(machine, "ghost", put=PutRequest(key=b"a"))
    with pytest.raises(errors.UserEmpty):
        machine.do(put=PutRequest(key=b"a"))


def test_a_right_taken_away_before_the_entry_is_applied(machine: Any) -> None:
    enable(machine)
    before = machine.auth.revision
    revoke = AuthUserRevokeRoleRequest(name="ann", role="r")
    named(machine, "root", auth_user_revoke_role=revoke)
    with pytest.raises(errors.AuthOldRevision):
        named(machine, "ann", before, put=PutRequest(key=b"a"))
    with pytest.raises(errors.PermissionDenied):
        named(machine, "ann", put=PutRequest(key=b"a"))
    # Rights were merged for ann before; a change of her role's is seen, too.
    named(machine, "root", auth_user_grant_role=AuthUserGrantRoleRequest(user="ann", role="r"))
    named(machine, "ann", put=PutRequest(key=b"a"))
    named(machine, "root", auth_role_grant_permission=grant("r", READ, b"a", b"b"))
    with pytest.raises(errors.PermissionDenied):
        named(machine, "ann", put=PutRequest(key=b"a"))


def test_a_lease_is_its_keys(machine: Any) -> None:
    enable(machine)
    for id in (7, 8, 9):
        machine.do(lease_grant=LeaseGrantRequest(ID=id, TTL=60))
    named(machine, "root", put=PutRequest(key=b"b", lease=7))
    named(machine, "ann", put=PutRequest(key=b"a", lease=8))
    with pytest.raises(errors.PermissionDenied):
        named(machine, "ann", put=PutRequest(key=b"a", lease=7))
    inside = RequestOp(request_put=PutRequest(key=b"a", lease=7))
    for txn in (
        TxnRequest(success=[inside]),
        TxnRequest(failure=[RequestOp(request_txn=TxnRequest(success=[inside]))]),
    ):
        with pytest.raises(errors.PermissionDenied):
            named(machine, "ann", txn=txn)
    with pytest.raises(errors.PermissionDenied):
        named(machine, "ann", lease_revoke=LeaseRevokeRequest(ID=7))
    named(machine, "ann", lease_revoke=LeaseRevokeRequest(ID=8))
    machine.do(lease_revoke=LeaseRevokeRequest(ID=9))  # without keys; the API wants a user
    named(machine, "root", lease_revoke=LeaseRevokeRequest(ID=7))


@pytest.mark.parametrize("alarm", [NOSPACE, CORRUPT])
def test_an_alarm_does_not_open_the_door(machine: Any, alarm: Any) -> None:
    """In etcd 3.5.1 an alarm replaces the applier that judges by one that does not."""
    enable(machine)
    activate = AlarmRequest(action=AlarmRequest.ACTIVATE, memberID=1, alarm=alarm)
    machine.do(alarm=activate)
    with pytest.raises(errors.UserEmpty):
        machine.do(range=RangeRequest(key=b"a"))
    with pytest.raises(errors.UserEmpty):
        machine.do(auth_user_add=AuthUserAddRequest(name="eve"))
    with pytest.raises(errors.PermissionDenied):
        named(machine, "ann", put=PutRequest(key=b"b"))
    with pytest.raises(errors.NoSpace if alarm == NOSPACE else errors.Corrupt):
        named(machine, "ann", put=PutRequest(key=b"a"))


def test_what_members_propose_by_themselves_needs_no_name(machine: Any) -> None:
    enable(machine)
    named(machine, "root", put=PutRequest(key=b"a"))
    machine.do(compaction=CompactionRequest(revision=2))
    machine.do(alarm=AlarmRequest(action=AlarmRequest.GET))


def test_a_grant_for_the_same_range_replaces_the_old_one(machine: Any) -> None:
    """etcd looks only at the first range with the same start: the older, larger right stays."""
    enable(machine)
    for request in (
        grant("r", READ, b"k"),
        grant("r", READWRITE, b"k", b"l"),
        grant("r", READ, b"k", b"l"),
    ):
        named(machine, "root", auth_role_grant_permission=request)
    found = named(machine, "root", auth_role_get=AuthRoleGetRequest(role="r")).perm
    assert [(p.permType, p.key, p.range_end) for p in found] == [
        (READWRITE, b"a", b"b"),
        (READ, b"k", b""),
        (READ, b"k", b"l"),
    ]
    with pytest.raises(errors.PermissionDenied):
        named(machine, "ann", put=PutRequest(key=b"k1"))


@pytest.mark.parametrize(("key", "end"), [(b"", b""), (b"b", b"a"), (b"b", b"b"), (b"", FROM_KEY)])
def test_a_permission_for_no_key_is_refused(machine: Any, key: bytes, end: bytes) -> None:
    machine.do(auth_role_add=AuthRoleAddRequest(name="r"))
    with pytest.raises(errors.InvalidAuthMgmt):
        machine.do(auth_role_grant_permission=grant("r", READ, key, end))
    with pytest.raises(errors.InvalidAuthMgmt):  # before the role is looked for
        machine.do(auth_role_grant_permission=grant("ghost", READ, key, end))
    with pytest.raises(errors.PermissionNotGiven):
        machine.do(auth_role_grant_permission=AuthRoleGrantPermissionRequest(name="ghost"))


def test_item_53_passwords(machine: Any) -> None:
    """A plain password stands only in logs of etcd before 3.5; every member makes the same hash."""
    import bcrypt

    machine.do(auth_user_add=AuthUserAddRequest(name="old", password="secret"))
    first = machine.auth.user("old").password
    assert bcrypt.checkpw(b"secret", first)
    machine.do(auth_user_delete=AuthUserDeleteRequest(name="old"))
    machine.do(auth_user_add=AuthUserAddRequest(name="old", password="secret"))
    assert machine.auth.user("old").password == first
    request = AuthUserAddRequest(name="none", hashedPassword=HASHED)
    request.options.no_password = True
    machine.do(auth_user_add=request)
    assert machine.auth.user("none").password == b""
    with pytest.raises(errors.EtcdError) as refused:
        machine.do(auth_user_add=AuthUserAddRequest(name="bad", hashedPassword="%"))
    assert "no password user" in refused.value.text
    assert machine.auth.users() == ["none", "old"]


# -- tokens


def authenticate(machine: Any, user: str, letters: str = "abcdefghijklmnop") -> str:
    request = InternalAuthenticateRequest(name=user, simple_token=letters)
    return str(machine.do(authenticate=request).token)


def test_item_49_tokens(machine: Any) -> None:
    with pytest.raises(errors.AuthNotEnabled):
        authenticate(machine, "ann")
    enable(machine)
    token = authenticate(machine, "ann")
    assert token == f"abcdefghijklmnop.{machine.index}"
    machine.now_s += 299
    assert machine.tokens.user(token) == "ann"
    machine.now_s += 299  # prolonged by its use
    assert machine.tokens.user(token) == "ann"
    machine.now_s += 300
    assert machine.tokens.user(token) is None
    token = authenticate(machine, "ann")
    change = AuthUserChangePasswordRequest(name="ann", hashedPassword=HASHED)
    other = authenticate(machine, "root")
    named(machine, "root", auth_user_change_password=change)
    assert machine.tokens.user(token) is None and machine.tokens.user(other) == "root"
    token = authenticate(machine, "ann")
    named(machine, "root", auth_user_delete=AuthUserDeleteRequest(name="ann"))
    assert machine.tokens.user(token) is None
    with pytest.raises(errors.AuthFailed):
        authenticate(machine, "ann")
    named(machine, "root", auth_disable=AuthDisableRequest())
    assert machine.tokens.user(other) is None


def test_a_user_without_password_gets_no_token(machine: Any) -> None:
    enable(machine)
    request = AuthUserAddRequest(name="cn")
    request.options.no_password = True
    named(machine, "root", auth_user_add=request)
    with pytest.raises(errors.AuthFailed):
        authenticate(machine, "cn")
    with pytest.raises(errors.EtcdError, match="no password user"):
        machine.auth.password_of("cn")


def test_tokens_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyetcd.store.tokens.TOKENS_MAX", 3)
    assert TOKENS_MAX > 100_000
    now_s = [0.0]
    tokens = SimpleTokens(lambda: now_s[0], ttl_s=10)
    for number in range(3):
        tokens.assign(f"x.{number}", "ann")
    assert tokens.user("x.0") == "ann"  # so x.1 is the one that was not used for longest
    tokens.assign("x.3", "ann")
    assert [tokens.user(f"x.{number}") for number in range(4)] == ["ann", None, "ann", "ann"]
    now_s[0] = 11.0
    tokens.assign("x.4", "ann")
    tokens.assign("x.5", "ann")
    assert len(tokens) == 2, "what has run out goes with the next ones"


@pytest.mark.parametrize(
    ("token", "index"),
    [
        ("abc.12", 12),
        (".0", 0),
        ("abc", None),
        ("a.b.1", None),
        ("abc.-1", None),
        ("abc.1\n", None),
        ("abc.٣", None),
        (f"abc.{1 << 64}", None),
        ("", None),
    ],
)
def test_the_index_of_a_token(token: str, index: int | None) -> None:
    assert index_of(token) == index


# -- rows of docs/regressions.md


def state(machine: Any) -> Any:
    auth = machine.auth
    return (
        auth.enabled,
        auth.revision,
        [(name, auth.user(name).SerializeToString()) for name in auth.users()],
        [(name, auth.role(name).SerializeToString()) for name in auth.roles()],
    )


def test_row_7_a_replay_of_auth_entries_changes_nothing(
    machine: Any, make_machine: Callable[..., Any]
) -> None:
    """etcd PR 11652: auth requests did not save the applied index, and a restart applied them
    again. Here the index moves in the same transaction: killed at any entry, the replay of what
    came after the last commit leads to the same state and the same answers."""
    log: list[Entry] = []

    def entry(user: str, revision: int, **request: Any) -> None:
        header = {"ID": len(log) + 1, "username": user, "auth_revision": revision}
        data = InternalRaftRequest(header=header, **request).SerializeToString()
        log.append(Entry(1, len(log) + 1, data=data))

    for user in ("root", "ann"):
        entry("", 0, auth_user_add=AuthUserAddRequest(name=user, hashedPassword=HASHED))
    entry("", 0, auth_user_grant_role=AuthUserGrantRoleRequest(user="root", role="root"))
    entry("", 0, auth_role_add=AuthRoleAddRequest(name="r"))
    entry("", 0, auth_role_grant_permission=grant("r", READWRITE, b"a", b"b"))
    entry("", 0, auth_user_grant_role=AuthUserGrantRoleRequest(user="ann", role="r"))
    entry("", 0, auth_enable=AuthEnableRequest())
    entry("ann", 7, put=PutRequest(key=b"a", value=b"1"))
    entry(
        "root",
        7,
        auth_role_revoke_permission=AuthRoleRevokePermissionRequest(
            role="r", key=b"a", range_end=b"b"
        ),
    )
    entry("ann", 7, put=PutRequest(key=b"a", value=b"2"))  # of the old revision: refused
    entry("ann", 8, put=PutRequest(key=b"a", value=b"3"))  # no right any more: refused
    entry("root", 8, auth_role_grant_permission=grant("r", WRITE, b"a", b"b"))
    entry("ann", 9, put=PutRequest(key=b"a", value=b"4"))
    entry("root", 9, auth_disable=AuthDisableRequest())
    entry("", 0, put=PutRequest(key=b"c", value=b"5"))

    def apply(target: Any, entries: list[Entry]) -> None:
        for each in entries:
            target.applier.apply(each)
            target.backend.set_applied(each.index, each.term)

    apply(machine, log)
    wanted = state(machine), machine.keyspace.revision
    assert (wanted[0][1], wanted[1]) == (10, 4)
    for committed in range(0, len(log), 3):
        for killed in range(committed, len(log) + 1, 4):
            other = make_machine(f"{committed}-{killed}.db")
            apply(other, log[:committed])
            other.backend.commit()
            apply(other, log[committed:killed])
            other.close()  # without a commit, as a killed process
            other.open()
            assert other.index == committed
            apply(other, log[other.index :])
            assert (state(other), other.keyspace.revision) == wanted, (committed, killed)


def test_everything_is_there_after_a_restart(machine: Any) -> None:
    enable(machine)
    before = state(machine)
    machine.reopen()
    assert state(machine) == before
    status = named(machine, "root", auth_status=AuthStatusRequest())
    assert (status.enabled, status.authRevision) == (True, 7)
    named(machine, "ann", put=PutRequest(key=b"a"))
    with pytest.raises(errors.PermissionDenied):
        named(machine, "ann", put=PutRequest(key=b"b"))
