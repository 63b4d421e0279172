"""auth enable, disable, status; user and role commands.

Passwords come from the argument, a flag, standard input, or are asked for twice. Where etcdctl
calls stty, getpass is asked on a terminal, and a line is read from anything else.
"""

from typing import Final

from pyetcd.cli import client as calls
from pyetcd.cli.client import Client, ClientError
from pyetcd.cli.context import Context
from pyetcd.cli.ctl.kv import call
from pyetcd.cli.printers.base import Named, Revoked
from pyetcd.cli.terminal import BAD_ARGS, ERROR
from pyetcd.proto import auth_pb2 as auth
from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.keys import FROM_KEY, prefix_end

ROOT: Final = "root"
_NO_ROOT_ROLE: Final = "etcdserver: root user does not have root role"
_BOTH: Final = "--from-key and --prefix flags are mutually exclusive"


def enable(context: Context) -> None:
    """`auth enable`: gives the user root its role if that is all that is missing."""
    _no_args(context, "auth enable command does not accept any arguments")
    context.start_timeout()
    client = context.client()
    try:
        while True:
            try:
                client.call(
                    calls.AUTH_ENABLE, rpc.AuthEnableRequest(), timeout_s=context.time_left_s()
                )
                break
            except ClientError as failure:
                if failure.description != _NO_ROOT_ROLE:
                    raise
                _make_root(context, client)
    except ClientError as failure:
        raise context.fail(ERROR, failure.text) from None
    context.print("Authentication Enabled")


def _make_root(context: Context, client: Client) -> None:
    role = rpc.AuthRoleAddRequest(name=ROOT)
    client.call(calls.ROLE_ADD, role, timeout_s=context.time_left_s())
    grant = rpc.AuthUserGrantRoleRequest(user=ROOT, role=ROOT)
    client.call(calls.USER_GRANT_ROLE, grant, timeout_s=context.time_left_s())


def disable(context: Context) -> None:
    """`auth disable`."""
    _no_args(context, "auth disable command does not accept any arguments")
    context.start_timeout()
    call(context, calls.AUTH_DISABLE, rpc.AuthDisableRequest())
    context.print("Authentication Disabled")


def status(context: Context) -> None:
    """`auth status`."""
    _no_args(context, "auth status command does not accept any arguments")
    context.start_timeout()
    answer = call(context, calls.AUTH_STATUS, rpc.AuthStatusRequest())
    context.display().show("auth_status", answer)


# Users


def user_add(context: Context) -> None:
    """`user add NAME` or `NAME:PASSWORD`."""
    if len(context.args) != 1:
        raise context.fail(BAD_ARGS, "user add command requires user name as its argument")
    name, password = _text(context, 0), ""
    request = rpc.AuthUserAddRequest()
    if context.flags.boolean("no-password"):
        request.options.no_password = True
    elif context.flags.text("new-user-password"):
        password = context.flags.text("new-user-password")
    elif ":" in name:
        name, _, password = name.partition(":")
        if not name:
            raise context.fail(BAD_ARGS, "empty user name is not allowed")
    else:
        password = _password_of(context, name)
    request.name, request.password = name, password
    # etcdctl always says what the options are.
    request.options.SetInParent()
    answer = call(context, calls.USER_ADD, request)
    context.display().show("user_add", Named((name,), answer))


def user_delete(context: Context) -> None:
    """`user delete`."""
    if len(context.args) != 1:
        raise context.fail(BAD_ARGS, "user delete command requires user name as its argument")
    name = _text(context, 0)
    answer = call(context, calls.USER_DELETE, rpc.AuthUserDeleteRequest(name=name))
    context.display().show("user_delete", Named((name,), answer))


def user_get(context: Context) -> None:
    """`user get`; with --detail each role as `role get` shows it."""
    if len(context.args) != 1:
        raise context.fail(BAD_ARGS, "user get command requires user name as its argument")
    name = _text(context, 0)
    client = context.client()
    try:
        answer = client.call(calls.USER_GET, rpc.AuthUserGetRequest(name=name), timeout_s=None)
        if not context.flags.boolean("detail"):
            context.display().show("user_get", Named((name,), answer))
            return
        context.print(f"User: {name}")
        for role in answer.roles:
            context.print("")
            request = rpc.AuthRoleGetRequest(role=role)
            found = client.call(calls.ROLE_GET, request, timeout_s=None)
            context.display().show("role_get", Named((role,), found))
    except ClientError as failure:
        raise context.fail(ERROR, failure.text) from None


def user_list(context: Context) -> None:
    """`user list`."""
    _no_args(context, "user list command requires no arguments")
    answer = call(context, calls.USER_LIST, rpc.AuthUserListRequest())
    context.display().show("user_list", answer)


def user_passwd(context: Context) -> None:
    """`user passwd`."""
    if len(context.args) != 1:
        raise context.fail(BAD_ARGS, "user passwd command requires user name as its argument")
    name = _text(context, 0)
    password = _password_of(context, name)
    request = rpc.AuthUserChangePasswordRequest(name=name, password=password)
    answer = call(context, calls.USER_CHANGE_PASSWORD, request)
    context.display().show("user_passwd", Named((name,), answer))


def user_grant_role(context: Context) -> None:
    """`user grant-role`."""
    if len(context.args) != 2:
        text = "user grant command requires user name and role name as its argument"
        raise context.fail(BAD_ARGS, text)
    user, role = _text(context, 0), _text(context, 1)
    request = rpc.AuthUserGrantRoleRequest(user=user, role=role)
    answer = call(context, calls.USER_GRANT_ROLE, request)
    context.display().show("user_grant_role", Named((role, user), answer))


def user_revoke_role(context: Context) -> None:
    """`user revoke-role`."""
    if len(context.args) != 2:
        text = "user revoke-role requires user name and role name as its argument"
        raise context.fail(BAD_ARGS, text)
    user, role = _text(context, 0), _text(context, 1)
    request = rpc.AuthUserRevokeRoleRequest(name=user, role=role)
    answer = call(context, calls.USER_REVOKE_ROLE, request)
    context.display().show("user_revoke_role", Named((role, user), answer))


# Roles


def role_add(context: Context) -> None:
    """`role add`."""
    if len(context.args) != 1:
        raise context.fail(BAD_ARGS, "role add command requires role name as its argument")
    name = _text(context, 0)
    answer = call(context, calls.ROLE_ADD, rpc.AuthRoleAddRequest(name=name))
    context.display().show("role_add", Named((name,), answer))


def role_delete(context: Context) -> None:
    """`role delete`."""
    if len(context.args) != 1:
        raise context.fail(BAD_ARGS, "role delete command requires role name as its argument")
    name = _text(context, 0)
    answer = call(context, calls.ROLE_DELETE, rpc.AuthRoleDeleteRequest(role=name))
    context.display().show("role_delete", Named((name,), answer))


def role_get(context: Context) -> None:
    """`role get`."""
    if len(context.args) != 1:
        raise context.fail(BAD_ARGS, "role get command requires role name as its argument")
    name = _text(context, 0)
    answer = call(context, calls.ROLE_GET, rpc.AuthRoleGetRequest(role=name))
    context.display().show("role_get", Named((name,), answer))


def role_list(context: Context) -> None:
    """`role list`."""
    _no_args(context, "role list command requires no arguments")
    answer = call(context, calls.ROLE_LIST, rpc.AuthRoleListRequest())
    context.display().show("role_list", answer)


def role_grant_permission(context: Context) -> None:
    """`role grant-permission`."""
    if len(context.args) < 3:
        text = (
            "role grant command requires role name, permission type, and key [endkey]"
            " as its argument"
        )
        raise context.fail(BAD_ARGS, text)
    name, kind = _text(context, 0), context.args[1]
    if kind.upper() not in dict(auth.Permission.Type.items()):
        raise context.fail(BAD_ARGS, f"invalid permission type: {kind}")
    key, range_end = _range(context, 2)
    permission = auth.Permission(permType=kind.upper(), key=key, range_end=range_end)
    request = rpc.AuthRoleGrantPermissionRequest(name=name, perm=permission)
    answer = call(context, calls.ROLE_GRANT_PERMISSION, request)
    context.display().show("role_grant_permission", Named((name,), answer))


def role_revoke_permission(context: Context) -> None:
    """`role revoke-permission`."""
    if len(context.args) < 2:
        text = "role revoke-permission command requires role name and key [endkey] as its argument"
        raise context.fail(BAD_ARGS, text)
    name = _text(context, 0)
    key, range_end = _range(context, 1)
    request = rpc.AuthRoleRevokePermissionRequest(role=name, key=key, range_end=range_end)
    answer = call(context, calls.ROLE_REVOKE_PERMISSION, request)
    shown = Revoked(name, context.arg(1), range_end, answer)
    context.display().show("role_revoke_permission", shown)


def _range(context: Context, at: int) -> tuple[bytes, bytes]:
    """The key, and the end that the flags or the next argument make."""
    key = context.arg(at)
    prefix, from_key = context.flags.boolean("prefix"), context.flags.boolean("from-key")
    if not key:
        if prefix and from_key:
            raise context.fail(BAD_ARGS, _BOTH)
        return FROM_KEY, FROM_KEY if prefix or from_key else b""
    if len(context.args) > at + 1:
        for flag, given in (("prefix", prefix), ("from-key", from_key)):
            if given:
                raise context.fail(BAD_ARGS, f"unexpected endkey argument with --{flag} flag")
        return key, context.arg(at + 1)
    if prefix and from_key:
        raise context.fail(BAD_ARGS, _BOTH)
    return key, prefix_end(key) if prefix else FROM_KEY if from_key else b""


def _no_args(context: Context, text: str) -> None:
    if context.args:
        raise context.fail(BAD_ARGS, text)


def _text(context: Context, position: int) -> str:
    """A name; protobuf takes no other text than UTF-8."""
    return context.arg(position).decode(errors="replace")


def _password_of(context: Context, name: str) -> str:
    if not context.flags.boolean("interactive"):
        line = context.stdin.readline().decode(errors="replace")
        words = line.split()
        return words[0] if words else ""
    first = _ask(context, f"Password of {name}: ")
    if not first:
        raise context.fail(BAD_ARGS, "empty password")
    if _ask(context, f"Type password of {name} again for confirmation: ") != first:
        raise context.fail(BAD_ARGS, "given passwords are different")
    return first


def _ask(context: Context, prompt: str) -> str:
    context.write(prompt.encode())
    context.flush()
    if context.stdin.isatty():
        import getpass

        return getpass.getpass("")
    line = context.stdin.readline().rstrip(b"\n").decode(errors="replace")
    context.write(b"\n")
    return line
