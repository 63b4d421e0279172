"""The commands on keys and directories."""

from typing import Final

from pyetcd.cli import gourl
from pyetcd.cli.ctl2.action import FORM, Action
from pyetcd.cli.ctl2.cluster import Cluster, connect, failed
from pyetcd.cli.ctl2.context import Context
from pyetcd.cli.ctl2.failure import Failure
from pyetcd.cli.ctl2.response import Node, Response, read_response, show
from pyetcd.cli.terminal import ERROR, Exit

KEYS: Final = "/v2/keys"
_SECOND_NS: Final = 10**9


def get(context: Context) -> None:
    """`get <key>`"""
    cluster = connect(context)
    response = _do(context, cluster, _reading(context, context.key(), recursive=False))
    if response.node.is_dir:
        context.warn(f"{response.node.key}: is a directory")
        raise Exit(ERROR)
    show(context, response)


def ls(context: Context) -> None:
    """`ls [key]`"""
    cluster = connect(context)
    key = context.args[0] if context.args else "/"
    recursive = context.flags.boolean("recursive")
    response = _do(context, cluster, _reading(context, key, recursive=recursive))
    if context.output != "simple":
        return show(context, response)
    if not response.node.is_dir:
        context.print(response.node.key)
    for node in response.node.nodes or []:
        _list(context, node, slash="/" if context.flags.boolean("p") else "")
    return None


def _list(context: Context, node: Node, *, slash: str) -> None:
    context.print(node.key + (slash if node.is_dir else ""))
    for child in node.nodes or []:
        _list(context, child, slash=slash)


def _reading(context: Context, key: str, *, recursive: bool) -> Action:
    asked = {
        "recursive": recursive,
        "sorted": context.flags.boolean("sort"),
        "quorum": context.flags.boolean("quorum"),
    }
    query = {name: "true" if on else "false" for name, on in asked.items()}
    return Action("GET", path_of(key), query, keep_slash=True)


def set_key(context: Context) -> None:
    """`set <key> <value>`"""
    cluster = connect(context)
    key, value = context.key(), context.value()
    query = _compared(context, "swap-with-value", "swap-with-index")
    show(context, _do(context, cluster, _writing(context, key, query, value=value)))


def mk(context: Context) -> None:
    """`mk <key> <value>`"""
    cluster = connect(context)
    key, value = context.key(), context.value()
    if context.flags.boolean("in-order"):
        body = gourl.form({"value": value, **_ttl(context)})
        action = Action("POST", path_of(key), headers=FORM, body=body, keep_slash=True)
    else:
        action = _writing(context, key, {"prevExist": "false"}, value=value)
    show(context, _do(context, cluster, action))


def update(context: Context) -> None:
    """`update <key> <value>`"""
    cluster = connect(context)
    key, value = context.key(), context.value()
    show(context, _do(context, cluster, _writing(context, key, {"prevExist": "true"}, value=value)))


def mkdir(context: Context) -> None:
    """`mkdir <key>`"""
    _make_directory(context, {"prevExist": "false"})


def setdir(context: Context) -> None:
    """`setdir <key>`"""
    _make_directory(context, {})


def updatedir(context: Context) -> None:
    """`updatedir <key>`"""
    _make_directory(context, {"prevExist": "true"})


def _make_directory(context: Context, query: dict[str, str]) -> None:
    cluster = connect(context)
    action = _writing(context, context.key(), {**query, "dir": "true"})
    response = _do(context, cluster, action)
    if context.output != "simple":
        show(context, response)


def rm(context: Context) -> None:
    """`rm <key>`"""
    cluster = connect(context)
    key = context.key()
    query = _compared(context, "with-value", "with-index")
    for name in ("dir", "recursive"):
        if context.flags.boolean(name):
            query[name] = "true"
    _remove(context, cluster, key, query)


def rmdir(context: Context) -> None:
    """`rmdir <key>`"""
    cluster = connect(context)
    _remove(context, cluster, context.key(), {"dir": "true"})


def _remove(context: Context, cluster: Cluster, key: str, query: dict[str, str]) -> None:
    action = Action("DELETE", path_of(key), query, FORM, once=True, keep_slash=True)
    response = _do(context, cluster, action)
    if not response.node.is_dir or context.output != "simple":
        show(context, response)


def _writing(
    context: Context, key: str, query: dict[str, str], *, value: str | None = None
) -> Action:
    fields = _ttl(context) if value is None else {"value": value, **_ttl(context)}
    return Action(
        "PUT",
        path_of(key),
        query,
        FORM,
        gourl.form(fields),
        once=query.get("prevExist") == "false",
        keep_slash=True,
    )


def _ttl(context: Context) -> dict[str, str]:
    """In Go a product of 64 bits that may run over."""
    time_ns = _signed(context.flags.integer("ttl") * _SECOND_NS)
    return {"ttl": str(time_ns // _SECOND_NS)} if time_ns > 0 else {}


def _compared(context: Context, value_flag: str, index_flag: str) -> dict[str, str]:
    query = {}
    if value := context.flags.text(value_flag):
        query["prevValue"] = value
    if index := unsigned(context.flags.integer(index_flag)):
        query["prevIndex"] = str(index)
    return query


def unsigned(value: int) -> int:
    """Go's uint64 of an int."""
    return value & ((1 << 64) - 1)


def _signed(value: int) -> int:
    value = unsigned(value)
    return value - (1 << 64) if value >> 63 else value


def path_of(key: str) -> str:
    """A key's path."""
    return f"{KEYS}/{key.removeprefix('/')}" if key else KEYS


def _do(context: Context, cluster: Cluster, action: Action) -> Response:
    """Exits when it fails."""
    try:
        return read_response(cluster.do(action, cluster.deadline()))
    except Failure as failure:
        raise failed(context, failure) from None
