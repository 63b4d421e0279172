"""Whatever a log entry asks, applying it answers: an exception would stop every member for ever.

Requests are drawn field by field from the message descriptions, with the values that hurt.
"""

import random

import pytest
from google.protobuf.descriptor import FieldDescriptor as Field

from pyetcd.proto.errors import EtcdError
from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest
from pyetcd.raft.types import Entry

SEEDS = range(20)
REQUESTS = 150
INTEGERS = [0, 1, 2, 3, -1, 7, 1 << 31, -(1 << 31), (1 << 63) - 1, -(1 << 63), 1 << 62]
BYTES = [b"", b"a", b"b", b"\x00", b"\xff", b"a\x00", b"k" * 300]
TEXTS = ["", "x", "3.5.0", "99.99.99", "a" * 300, "http://[::1"]
DEPTH_MAX = 4


def draw(rng: random.Random, message, depth: int = 0) -> None:
    for field in message.DESCRIPTOR.fields:
        if field.containing_oneof is not None or rng.random() < 0.5:
            continue
        put(rng, message, field, depth)
    for oneof in message.DESCRIPTOR.oneofs:
        if rng.random() < 0.9:
            put(rng, message, rng.choice(oneof.fields), depth)


def put(rng: random.Random, message, field, depth: int) -> None:
    if field.type == Field.TYPE_MESSAGE:
        if depth >= DEPTH_MAX:
            return
        if field.is_repeated:
            for _ in range(rng.randrange(3)):
                draw(rng, getattr(message, field.name).add(), depth + 1)
        else:
            inner = getattr(message, field.name)
            inner.SetInParent()
            draw(rng, inner, depth + 1)
        return
    value = scalar(rng, field)
    if field.is_repeated:
        getattr(message, field.name).extend([value] * rng.randrange(3))
    else:
        setattr(message, field.name, value)


def scalar(rng: random.Random, field):
    if field.type == Field.TYPE_BYTES:
        return rng.choice(BYTES)
    if field.type == Field.TYPE_STRING:
        return rng.choice(TEXTS)
    if field.type == Field.TYPE_BOOL:
        return rng.random() < 0.5
    if field.type == Field.TYPE_ENUM:
        return rng.choice([0, 1, 2, 3, 99])
    value = rng.choice(INTEGERS)
    if field.type in (Field.TYPE_UINT64, Field.TYPE_UINT32):
        value = abs(value)
    if field.type in (Field.TYPE_INT32, Field.TYPE_UINT32):
        value &= 0x7FFFFFFF
    return value


KINDS = [
    field.name
    for field in InternalRaftRequest.DESCRIPTOR.fields
    if field.type == Field.TYPE_MESSAGE and field.name != "header"
]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_request_has_an_answer(machine, seed):
    rng = random.Random(seed)
    for index in range(1, REQUESTS + 1):
        request = InternalRaftRequest()
        request.header.ID = index
        kind = rng.choice([*KINDS, "put", "txn", "txn", "delete_range", "range", "v2"])
        inner = getattr(request, kind)
        inner.SetInParent()
        draw(rng, inner)
        applied = machine.applier.apply(Entry(1, index, data=request.SerializeToString()))
        assert applied.request_id == index or kind == "v2", request
        assert isinstance(applied.answer, EtcdError) or applied.answer is not None, request


def auth_state(machine):
    auth = machine.auth
    users = [auth.user(name).SerializeToString() for name in auth.users()]
    roles = [auth.role(name).SerializeToString() for name in auth.roles()]
    return auth.enabled, auth.revision, users, roles, machine.keyspace.revision


@pytest.mark.parametrize("seed", range(8))
def test_members_agree_on_rights_whatever_they_have_read_anew(make_machine, seed):
    """One applies the log as it comes, the other reads everything anew in between, as after a
    snapshot: rights that were merged before must not show."""
    rng = random.Random(seed)
    ours, other = make_machine("a.db"), make_machine("b.db")
    requests = [
        *({"auth_user_add": {"name": name, "hashedPassword": ""}} for name in ("root", "x", "y")),
        {"auth_user_grant_role": {"user": "root", "role": "root"}},
        {"auth_role_add": {"name": "3.5.0"}},
        {"auth_user_grant_role": {"user": "x", "role": "3.5.0"}},
        {"auth_enable": {}},
    ]
    kinds = [kind for kind in KINDS if kind.startswith("auth") and kind != "authenticate"]
    errors = {}
    for index in range(1, 400):
        request = InternalRaftRequest()
        if requests:
            request = InternalRaftRequest(**requests.pop(0))
        else:
            kind = rng.choice([*kinds, *["auth_role_grant_permission"] * 4])
            kind = rng.choice([kind, "put", "txn", "delete_range", "range", "lease_revoke"])
            inner = getattr(request, kind)
            inner.SetInParent()
            draw(rng, inner)
            if kind.startswith("auth") and hasattr(inner, "password"):
                inner.password = ""  # a plain one is hashed for 50 ms
            request.header.username = rng.choice(["root", "root", "x", "y", ""])
            old = rng.choice([0, 0, 0, 0, 1])
            request.header.auth_revision = max(0, ours.auth.revision - old)
        request.header.ID = index
        data = request.SerializeToString()
        first, second = (each.applier.apply(Entry(1, index, data=data)) for each in (ours, other))
        assert str(first.answer) == str(second.answer), (index, request)
        errors[str(first.error)] = errors.get(str(first.error), 0) + 1
        assert auth_state(ours) == auth_state(other), (index, request)
        if rng.random() < 0.1:
            other.backend.commit()
            other.applier.reload()
    assert errors["None"] > 50 and errors["etcdserver: permission denied"] > 10, errors
