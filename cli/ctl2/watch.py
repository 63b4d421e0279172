"""watch and exec-watch: one long poll after the other, each from behind the last event."""

import subprocess
from collections.abc import Iterator
from typing import Final

from pyetcd.cli.ctl2.action import Action
from pyetcd.cli.ctl2.cluster import Cluster, connect, failed
from pyetcd.cli.ctl2.context import Context
from pyetcd.cli.ctl2.failure import NEVER, Failure
from pyetcd.cli.ctl2.keys import path_of, unsigned
from pyetcd.cli.ctl2.response import EmptyBody, Response, read_response, show
from pyetcd.cli.gotext import quote
from pyetcd.cli.terminal import ERROR, Exit

RUNNING_MAX: Final = 1000  # commands of exec-watch at once; the next one waits for the oldest


def watch(context: Context) -> None:
    """`watch <key>`"""
    cluster = connect(context)
    key = context.key()
    recursive = context.flags.boolean("recursive")
    after = unsigned(context.flags.integer("after-index"))
    with context.ended_by_interrupt():
        for response in _events(context, cluster, key, recursive=recursive, after=after):
            if response.node.is_dir:
                continue
            if recursive:
                context.print(f"[{response.action}] {response.node.key}")
            show(context, response)
            context.flush()
            if not context.flags.boolean("forever"):
                return


def exec_watch(context: Context) -> None:
    """`exec-watch <key> <command> [args...]`"""
    cluster = connect(context)
    if len(context.args) < 2:
        raise context.refuse("key and command to exec required")
    key, command = _split(context.args)
    if not command:
        raise context.refuse("key and command to exec required")
    after = max(0, context.flags.integer("after-index"))
    recursive = context.flags.boolean("recursive")
    running: list[subprocess.Popen[bytes]] = []
    with context.ended_by_interrupt():
        for response in _events(context, cluster, key, recursive=recursive, after=after):
            if response.node.is_dir:
                context.warn(f"Ignored dir {response.node.key} change")
                continue
            running = [process for process in running if process.poll() is None]
            if len(running) >= RUNNING_MAX:
                running.pop(0).wait()
            running.append(_start(context, command, response))


def _split(args: list[str]) -> tuple[str, list[str]]:
    """The key and the command. Without a "--" the key is the last word, not the first, as in
    etcdctl; with one, its place is taken to be the second word."""
    if "--" in args[1:]:
        return args[0], args[2:]
    return args[-1], args[:-1]


def _events(
    context: Context, cluster: Cluster, key: str, *, recursive: bool, after: int
) -> Iterator[Response]:
    """All events behind `after`, without an end (0: from now on); exits when a request fails."""
    index = unsigned(after + 1) if after else 0
    while True:
        query = {
            "wait": "true",
            "waitIndex": str(index),
            "recursive": "true" if recursive else "false",
        }
        action = Action("GET", path_of(key), query, waits=True, keep_slash=True)
        try:
            response = read_response(cluster.do(action, NEVER))
        except EmptyBody:
            continue
        except Failure as failure:
            raise failed(context, failure) from None
        index = response.node.modified_index + 1
        yield response


def _start(context: Context, command: list[str], response: Response) -> "subprocess.Popen[bytes]":
    env = {
        **context.env,
        "ETCD_WATCH_ACTION": response.action,
        "ETCD_WATCH_MODIFIED_INDEX": str(response.node.modified_index),
        "ETCD_WATCH_KEY": response.node.key,
        "ETCD_WATCH_VALUE": response.node.value,
    }
    context.flush()
    try:
        return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL)
    except (OSError, ValueError) as failure:
        context.say(_not_started(command[0], failure))
        raise Exit(ERROR) from None


def _not_started(program: str, failure: Exception) -> str:
    if not isinstance(failure, OSError):  # a value with a zero byte is no variable
        return f"fork/exec {program}: invalid argument"
    if "/" not in program and isinstance(failure, FileNotFoundError | PermissionError):
        quoted = quote(program.encode("utf-8", "surrogateescape"))
        return f"exec: {quoted}: executable file not found in $PATH"
    reason = (failure.strerror or "").lower()
    return f"fork/exec {program}: {reason}"
