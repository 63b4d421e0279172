"""access: nobody is let in whom the users as of then do not let in, and nobody else is kept out.

What goes through the log is judged there: the model's answer to an entry is its refusal (log.py).
Here is what a member decides by itself: reads, by the users as of what it had applied when it
answered; tokens; passwords; and that a write is signed with the name of who asked for it.
"""

from typing import Any

import bcrypt
from sim.auth_model import (
    ADMIN,
    DENIED,
    FAILED,
    INVALID_TOKEN,
    NO_PASSWORD,
    NOT_ENABLED,
    OLD,
    READ,
    USER_EMPTY,
    USER_NOT_FOUND,
    AuthModel,
    asked,
    of_txn,
    root_refusal,
)
from sim.checks.log import History, Operation
from sim.checks.violation import Violation

from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest

# Proposed after a password was hashed or compared: which entry it is shows in the log.
HASHED = ("auth_user_add", "auth_user_change_password", "authenticate")
_ROOTS = (
    "compact", "member_add", "member_promote", "member_remove", "member_update", "move_leader",
)  # fmt: skip
_READS = ("range", "may_watch")
_WRITES = ("put", "delete_range", "txn", "lease_revoke")


def find_hashed(history: History, op: Operation) -> int:
    """The id of the entry whose hash is that of the operation's password, which no other has, or
    that made its token."""
    if op.kind == "authenticate":
        token = getattr(op.answer, "token", "").rpartition(".")[2]
        _, _, data = history.entries.get(int(token or 0), (0, 0, b""))
        return InternalRaftRequest.FromString(data).header.ID
    password = op.request.password.encode()
    for index, id, name, hashed in history.model.auth.hashed:
        is_later = index > op.floor_index and name == op.request.name
        if is_later and bcrypt.checkpw(password, hashed):
            return id
    return 0


def check_access(history: History, op: Operation) -> None:
    auth = history.model.auth
    if not auth.is_used:
        return
    text = op.answer[1] if isinstance(op.answer, tuple) else ""
    if text == INVALID_TOKEN[1]:
        _check_void(auth, op)
    elif op.kind == "authenticate":
        _check_authenticated(history, op, text)
    elif op.kind in _READS or (op.kind == "txn" and not op.request_id and not text):
        _check_read(history, op, text)
    elif not op.request_id and text:
        _check_refusal(history, op, text)
    elif not text and op.kind in _ROOTS:
        _check_root(auth, op)
    elif not text and op.kind == "lease_grant":
        indexes = auth.indexes(op.served_index, op.answered_index)
        if not any(not auth.at(i).enabled or caller(auth, op, i) for i in indexes):
            raise Violation("access", f"{op} by nobody")
    elif not text and (op.kind in _WRITES or op.kind in ADMIN):
        _check_name(history, op)


def caller(auth: AuthModel, op: Operation, index: int) -> str:
    return auth.holder(op.token, index) if op.token else op.common_name


def _check_void(auth: AuthModel, op: Operation) -> None:
    """Memory alone has tokens: a member may have forgotten one that is older than its run."""
    found = auth.tokens.get(op.token)
    if found is None or not op.tokens_since < found.since <= op.served_index:
        return
    if auth.holder(op.token, op.served_index) and auth.holder(op.token, op.answered_index):
        raise Violation("access", f"{op}: but {found}")


def _check_read(history: History, op: Operation, text: str) -> None:
    auth, request = history.model.auth, op.request
    if op.kind in _READS:
        ranges = [(request.key, request.range_end, READ)]
    else:
        ranges = of_txn(request, None)

    def is_allowed(index: int) -> bool:
        users, name = auth.at(index), caller(auth, op, index)
        if not users.enabled or not ranges:
            return True
        return bool(name) and all(users.may(name, *each) for each in ranges)

    indexes = auth.indexes(op.served_index, op.answered_index)
    now = auth.at(op.answered_index)
    # A read of the past runs in a thread, and answers later than it was let in.
    is_late = op.kind == "range" and request.revision > 0
    if not text:
        if not any(map(is_allowed, indexes if is_late else [op.answered_index])):
            raise Violation("access", f"{op} was let through, by {now}")
    elif text == DENIED[1]:
        if is_allowed(op.answered_index):
            raise Violation("access", f"{op} was refused, by {now}")
    elif text == USER_EMPTY[1]:
        if not now.enabled or op.token or op.common_name:
            raise Violation("access", f"{op} was refused, by {now}")
    elif text == OLD[1]:
        revisions = {auth.at(index).revision for index in indexes}
        if not is_late or len(revisions) == 1:
            raise Violation("access", f"{op} was refused, by {now}")


def _check_refusal(history: History, op: Operation, text: str) -> None:
    """By a gate, before anything was proposed."""
    auth = history.model.auth
    now, name = auth.at(op.answered_index), caller(auth, op, op.answered_index)
    refusals = (DENIED[1], USER_EMPTY[1], USER_NOT_FOUND[1], OLD[1])
    if text not in refusals:
        return
    expected: Any = None
    if not now.enabled:
        pass
    elif op.kind in _ROOTS:
        expected = root_refusal(now, name)
    elif not name:
        expected = USER_EMPTY
    elif op.kind in (*_WRITES, "renew"):
        return  # of what does not fit, and the keys of its lease are not known here
    if expected is None or expected[1] != text:
        raise Violation("access", f"{op} was refused, by {now}: {expected}")


def _check_root(auth: AuthModel, op: Operation) -> None:
    for index in auth.indexes(op.served_index, op.answered_index):
        users = auth.at(index)
        if not users.enabled or users.is_root(caller(auth, op, index)):
            return
    raise Violation("access", f"{op} was let through, by {auth.at(op.answered_index)}")


def _check_name(history: History, op: Operation) -> None:
    """A write was let through, and its entry says in whose name."""
    auth, index = history.model.auth, history.index_by_id[op.request_id]
    if not auth.at(index - 1).enabled:
        return
    request = InternalRaftRequest.FromString(history.entries[index][2])
    name = request.header.username
    if op.kind in ADMIN or op.kind == "lease_revoke":
        # May be let in with an older name, or with none while nobody was asked for one.
        indexes = auth.indexes(op.served_index, index - 1)
        names = {caller(auth, op, i) if auth.at(i).enabled else "" for i in indexes}
    else:
        names = {caller(auth, op, index - 1)}
        if not name and not asked(request, history.model):
            return
    if name not in names:
        raise Violation("access", f"{op} was done in the name of {name!r}, not {names}")


def _check_authenticated(history: History, op: Operation, text: str) -> None:
    auth, name, password = history.model.auth, op.request.name, op.request.password.encode()
    if not text:
        token = auth.tokens.get(op.answer.token)
        if token is None or token.user != name or token.since <= op.floor_index:
            raise Violation("access", f"{op}: that token is {token}")
        user = auth.at(token.since).users[name]
        if user.no_password or not bcrypt.checkpw(password, user.password):
            raise Violation("access", f"{op}: with a wrong password")
        return
    states = [auth.at(i) for i in auth.indexes(op.floor_index, history.last_index)]
    users = [each.users.get(name) for each in states]
    is_right = True
    if text == NOT_ENABLED[1]:
        is_right = any(not each.enabled for each in states)
    elif text == NO_PASSWORD[1]:
        is_right = any(user is not None and user.no_password for user in users)
    elif text == FAILED[1]:
        is_right = any(
            user is None or user.no_password or not bcrypt.checkpw(password, user.password)
            for user in users
        )
    if not is_right:
        raise Violation("access", f"{op} was refused: {text}")
