"""Users, roles, and whether the v2 API asks for them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pyetcd.cli.ctl2 import gojson
from pyetcd.cli.ctl2.action import JSON, Action
from pyetcd.cli.ctl2.cluster import Cluster, connect, name_endpoints
from pyetcd.cli.ctl2.context import Context
from pyetcd.cli.ctl2.failure import Deadline, Failure
from pyetcd.cli.ctl2.gojson import BadJSON
from pyetcd.cli.ctl2.http1 import CREATED, OK, Answer
from pyetcd.cli.ctl2.member_list import expect
from pyetcd.cli.gourl import clean_path
from pyetcd.cli.terminal import Exit

_AUTH: Final = "/v2/auth"


def enable(context: Context) -> None:
    """`auth enable`"""
    _switch(context, "PUT", "Enabled")


def disable(context: Context) -> None:
    """`auth disable`"""
    _switch(context, "DELETE", "Disabled")


def _switch(context: Context, method: str, done: str) -> None:
    _refuse_arguments(context)
    cluster = _connect(context)
    _ask(context, cluster, Action(method, f"{_AUTH}/enable"), cluster.deadline(), CREATED)
    context.print(f"Authentication {done}")


def user_list(context: Context) -> None:
    """`user list`"""
    _print_names(context, "user")


def role_list(context: Context) -> None:
    """`role list`"""
    _print_names(context, "role")


def _print_names(context: Context, kind: str) -> None:
    _refuse_arguments(context)
    cluster = _connect(context)
    action = Action("GET", f"{_AUTH}/{kind}s", headers=JSON)
    # etcdctl says of a refused list of roles only its status.
    if kind == "role":
        answer = _do(context, cluster, action, cluster.deadline())
        try:
            expect(answer, OK)
        except Failure as failure:
            raise context.fatal(str(failure)) from None
    else:
        answer = _ask(context, cluster, action, cluster.deadline())
    for row in _fields(context, answer).get(f"{kind}s") or []:
        context.print(str(row.get(kind, "")))


def user_add(context: Context) -> None:
    """`user add <user>[:password]`"""
    cluster, given = _connect_about(context, "a username")
    deadline = cluster.deadline()
    user, colon, password = given.partition(":")
    if not colon:
        password = context.ask_password("New password: ")
    fields = {"user": user, **({"password": password} if password else {}), "roles": None}
    _ask(context, cluster, _put("users", user, fields), deadline, CREATED)
    context.print(f"User {user} created")


def user_passwd(context: Context) -> None:
    """`user passwd <user>`"""
    cluster, user = _connect_about(context, "a username")
    deadline = cluster.deadline()
    password = context.ask_password("New password: ")
    fields = {"user": user, **({"password": password} if password else {}), "roles": None}
    _ask(context, cluster, _put("users", user, fields), deadline)
    context.print("Password updated")


def user_remove(context: Context) -> None:
    """`user remove <user>`"""
    _remove(context, "user", "a username")


def role_remove(context: Context) -> None:
    """`role remove <role>`"""
    _remove(context, "role", "a role name")


def _remove(context: Context, kind: str, what: str) -> None:
    cluster, name = _connect_about(context, what)
    action = Action("DELETE", _path(f"{kind}s", name))
    _ask(context, cluster, action, cluster.deadline(), CREATED)
    context.print(f"{kind.capitalize()} {name} removed")


def user_get(context: Context) -> None:
    """`user get <user>`"""
    cluster, name = _connect_about(context, "a username")
    answer = _ask(context, cluster, Action("GET", _path("users", name)), cluster.deadline())
    found = _fields(context, answer)
    rows = found.get("roles") or []
    # etcdctl first reads roles as names: of each that is an object an empty name is left.
    roles = ["" for row in rows if isinstance(row, dict)]
    roles += [str(row.get("role", "") if isinstance(row, dict) else row) for row in rows]
    context.print(f"User: {found.get('user', '')}")
    context.print(f"Roles: {' '.join(roles)}")


def user_grant(context: Context) -> None:
    """`user grant <user> --roles`"""
    _change_user(context, "grant")


def user_revoke(context: Context) -> None:
    """`user revoke <user> --roles`"""
    _change_user(context, "revoke")


def _change_user(context: Context, change: str) -> None:
    roles = context.flags.texts("roles")
    if not roles:
        raise context.fatal("No roles specified; please use `--roles`")
    deadline = Deadline(context.globals.integer("total-timeout") / 1e9)
    cluster, user = _connect_about(context, "a username")
    fields = {"user": user, "roles": None, change: roles}
    _ask(context, cluster, _put("users", user, fields), deadline)
    context.print(f"User {user} updated")


def role_add(context: Context) -> None:
    """`role add <role>`"""
    cluster, role = _connect_about(context, "a role name")
    deadline = cluster.deadline()
    try:
        answer = cluster.do(Action("GET", _path("roles", role)), deadline)
        exists = answer.status == OK and bool(gojson.fields(answer.body)) is not None
    except (BadJSON, Failure):
        exists = False
    if exists:
        raise context.fatal(f"Role {role} already exists")
    _ask(context, cluster, _put("roles", role, _role(role)), deadline, CREATED)
    context.print(f"Role {role} created")


@dataclass(frozen=True, slots=True)
class _Permissions:
    """What a role may read and write. None and nothing are told apart, as in Go."""

    read: list[str] | None
    write: list[str] | None


def role_get(context: Context) -> None:
    """`role get <role>`"""
    cluster, role = _connect_about(context, "a role name")
    answer = _ask(context, cluster, Action("GET", _path("roles", role)), cluster.deadline())
    found = _fields(context, answer)
    allowed = _permissions(found)
    context.print(f"Role: {found.get('role', '')}")
    context.print("KV Read:")
    for path in allowed.read or []:
        context.print(f"\t{path}")
    context.print("KV Write:")
    for path in allowed.write or []:
        context.print(f"\t{path}")


def role_grant(context: Context) -> None:
    """`role grant <role> --path`"""
    _change_role(context, "grant", "already granted")


def role_revoke(context: Context) -> None:
    """`role revoke <role> --path`"""
    _change_role(context, "revoke", "already revoked")


def _change_role(context: Context, change: str, already: str) -> None:
    flags = context.flags
    path = flags.text("path")
    if not path:
        raise context.fatal("No path specified; please use `--path`")
    canonical = clean_path(path, keep_slash=True)
    if canonical != path:
        raise context.fatal(f"Not canonical path; please use `--path={canonical}`")
    read, write, both = (flags.boolean(name) for name in ("read", "write", "readwrite"))
    if read + write + both != 1:
        raise context.fatal("Please specify exactly one of --read, --write or --readwrite")
    cluster, role = _connect_about(context, "a role name")
    deadline = cluster.deadline()
    before = _fields(context, _ask(context, cluster, Action("GET", _path("roles", role)), deadline))
    wanted = {"kv": _rights([path] if read or both else None, [path] if write or both else None)}
    action = _put("roles", role, {**_role(role), change: wanted})
    after = _fields(context, _ask(context, cluster, action, deadline))
    if _comparable(before) == _comparable(after):
        context.write(f"Role unchanged; {already}".encode())
    context.print(f"Role {role} updated")


def _rights(read: Sequence[str] | None, write: Sequence[str] | None) -> dict[str, Any]:
    return {"read": read, "write": write}


def _role(name: str) -> dict[str, Any]:
    return {"role": name, "permissions": {"kv": _rights(None, None)}}


def _comparable(role: dict[str, Any]) -> tuple[str, _Permissions]:
    return str(role.get("role", "")), _permissions(role)


def _permissions(role: dict[str, Any]) -> _Permissions:
    kv = (role.get("permissions") or {}).get("kv") or {}
    return _Permissions(kv.get("read"), kv.get("write"))


def _connect(context: Context) -> Cluster:
    cluster = connect(context)
    if context.debugs:
        name_endpoints(context, cluster)
    return cluster


def _connect_about(context: Context, what: str) -> tuple[Cluster, str]:
    """The cluster, and the one argument; exits without."""
    if len(context.args) != 1:
        raise context.fatal(f"Please provide {what}")
    return _connect(context), context.args[0]


def _refuse_arguments(context: Context) -> None:
    if context.args:
        raise context.fatal("No arguments accepted")


def _path(kind: str, name: str) -> str:
    return f"{_AUTH}/{kind}/{name}" if name else f"{_AUTH}/{kind}"


def _put(kind: str, name: str, fields: dict[str, Any]) -> Action:
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    body = text.encode("utf-8", "surrogateescape")
    return Action("PUT", _path(kind, name), headers=JSON, body=body)


def _do(context: Context, cluster: Cluster, action: Action, deadline: Deadline) -> Answer:
    try:
        return cluster.do(action, deadline)
    except Failure as failure:
        raise context.fatal(str(failure)) from None


def _ask(
    context: Context, cluster: Cluster, action: Action, deadline: Deadline, *also: int
) -> Answer:
    """An answer of status 200 or one of `also`; exits with the message of any other."""
    answer = _do(context, cluster, action, deadline)
    if answer.status in (OK, *also):
        return answer
    raise _refused(context, answer)


def _refused(context: Context, answer: Answer) -> Exit:
    return context.fatal(str(_fields(context, answer).get("message", "")))


def _fields(context: Context, answer: Answer) -> dict[str, Any]:
    try:
        return gojson.fields(answer.body)
    except BadJSON as failure:
        raise context.fatal(str(failure)) from None
