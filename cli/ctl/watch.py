"""`watch`: events as they come, with -i several watches at a time, behind `--` a command per event.

A watch outlives its connection: when the stream breaks it starts again behind the last revision
that it has seen, so that nothing is missed and nothing is shown twice.
"""

import os
import queue
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc

from pyetcd.cli import client as calls
from pyetcd.cli.client import Client
from pyetcd.cli.context import Context
from pyetcd.cli.ctl.kv import decoding
from pyetcd.cli.ctl.tree import WATCH
from pyetcd.cli.ctl.txn_text import split
from pyetcd.cli.flags import FlagError, FlagSet
from pyetcd.cli.gotext import quote
from pyetcd.cli.printers.base import Display
from pyetcd.cli.terminal import BAD_ARGS, ERROR, INTERRUPTED, INVALID_INPUT, Exit
from pyetcd.proto import kv_pb2 as kv
from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.keys import prefix_end

RECONNECT_S = 0.1
_COUNT = "bad number of arguments"
_CONFLICT = f"{_COUNT} (found conflicting environment key)"
_SEPARATOR = f"{_COUNT} (found separator --, but no commands)"
_COMPACTED = "etcdserver: mvcc: required revision has been compacted"
_FUTURE = "etcdserver: mvcc: required revision is a future revision"


class BadWatch(Exception):
    """Arguments that make no watch."""


@dataclass(slots=True)
class Watch:
    """One watch: what it asks for, the command to run, how far it has come."""

    key: bytes
    range_end: bytes
    flags: FlagSet
    command: list[str]
    revision: int = 0
    is_over: bool = False  # nobody wants to know how it ends
    requests: "queue.SimpleQueue[rpc.WatchRequest | None]" = field(
        default_factory=queue.SimpleQueue  # a create, and a progress request per line of input
    )

    def create(self) -> rpc.WatchRequest:
        """The request that starts it, or starts it again."""
        return rpc.WatchRequest(
            create_request=rpc.WatchCreateRequest(
                key=self.key,
                range_end=self.range_end,
                start_revision=self.revision,
                prev_kv=self.flags.boolean("prev-kv"),
                progress_notify=self.flags.boolean("progress-notify"),
            )
        )


def watch(context: Context) -> None:
    """`watch`."""
    key = context.env.get("ETCDCTL_WATCH_KEY", "")
    range_end = context.env.get("ETCDCTL_WATCH_RANGE_END", "")
    if not key and range_end:
        shown = quote(range_end.encode("utf-8", "surrogateescape"))
        text = f"ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END={shown}"
        raise context.fail(BAD_ARGS, text)
    ranges = [word for word in (key, range_end) if word]
    if context.flags.boolean("interactive"):
        _interactive(context, ranges)
        return
    try:
        words, command = _split_command(context, ranges)
    except BadWatch as mistake:
        raise context.fail(BAD_ARGS, str(mistake)) from None
    client = context.client()
    try:
        wanted = _watch(ranges + words, context.flags, command)
    except BadWatch as mistake:
        raise context.fail(BAD_ARGS, str(mistake)) from None
    _follow(context, client, decoding(context), wanted)
    raise context.fail(INTERRUPTED, "watch is canceled by the server")


def _split_command(context: Context, ranges: list[str]) -> tuple[list[str], list[str]]:
    """The words before `--` and the command behind it."""
    raw = context.argv[context.argv.index(_called(context.argv)) + 1 :]
    if "--" not in raw:
        if not raw and not ranges:
            raise BadWatch(_COUNT)
        if context.args and ranges:
            raise BadWatch(_CONFLICT)
        return context.args, []
    command = raw[raw.index("--") + 1 :]
    if not command:
        raise BadWatch(_SEPARATOR)
    words = context.args[: len(context.args) - len(command)]
    if words and ranges:
        raise BadWatch(_CONFLICT)
    return words, command


def _called(argv: list[str]) -> str:
    """The word that named this command: `watch`, or a prefix of it."""
    if "watch" in argv:
        return "watch"
    return next(word for word in argv if word and "watch".startswith(word))


def _watch(words: list[str], flags: FlagSet, command: list[str]) -> Watch:
    if not words:
        raise BadWatch(_COUNT)
    key, *rest = (word.encode("utf-8", "surrogateescape") for word in words)
    range_end = rest[0] if len(rest) == 1 else b""
    if flags.boolean("prefix"):
        if len(rest) == 1:
            raise BadWatch("`range_end` and `--prefix` are mutually exclusive")
        range_end = prefix_end(key)
        key = key or b"\x00"
    return Watch(key or b"\x00", range_end, flags, command, flags.integer("rev"))


def _follow(context: Context, client: Client, display: Display, wanted: Watch) -> None:
    """Shows what the watch brings, until the server ends it."""
    while True:
        wanted.requests.put(wanted.create())
        requests = _requests(wanted)
        try:
            for answer in client.stream(calls.WATCH, requests, need_leader=True):
                if _show(context, display, wanted, answer):
                    return
        except grpc.RpcError as failure:
            error = client.translate(failure)
            if wanted.is_over:
                return
            if error.code not in ("Unavailable", "Internal"):
                context.warn(f"watch was canceled ({error.text})")
                return
        except ValueError:
            if wanted.is_over:  # the channel was closed
                return
            raise
        finally:
            wanted.requests.put(None)  # grpc's thread waits for the next request
        wanted.requests = queue.SimpleQueue()
        time.sleep(RECONNECT_S)


def _follow_aside(context: Context, client: Client, display: Display, wanted: Watch) -> None:
    """As a thread: what ends the command here ends the process, which waits for its input."""
    try:
        _follow(context, client, display, wanted)
    except Exit as end:
        context.end_from_thread(end.code)


def _requests(wanted: Watch) -> Iterator[rpc.WatchRequest]:
    source = wanted.requests
    while (request := source.get()) is not None:
        yield request


def _show(context: Context, display: Display, wanted: Watch, answer: rpc.WatchResponse) -> bool:
    """Shows one answer; returns whether it was the last."""
    if answer.created and not answer.canceled:
        if wanted.revision == 0:
            wanted.revision = answer.header.revision + 1  # where to go on, should it break now
        return False
    if answer.canceled:
        reason = answer.cancel_reason or _FUTURE
        if answer.compact_revision:
            reason = _COMPACTED
        context.warn(f"watch was canceled ({reason})")
    elif (
        not answer.events
        and not answer.compact_revision
        and not (display.decodes or display.format == "yaml")  # the line would be no part of it
    ):
        context.print(f"progress notify: {answer.header.revision}")
    if answer.events:
        wanted.revision = answer.events[-1].kv.mod_revision + 1
    shown = rpc.WatchResponse()
    shown.CopyFrom(answer)
    for name in ("watch_id", "cancel_reason", "fragment"):
        shown.ClearField(name)
    display.show("watch", shown)
    context.flush()
    if wanted.command:
        for event in answer.events:
            _run_command(context, wanted.command, answer.header.revision, event)
    return answer.canceled


def _run_command(context: Context, command: list[str], revision: int, event: kv.Event) -> None:
    name = "DELETE" if event.type == kv.Event.DELETE else "PUT"
    env = dict(context.env)
    env["ETCD_WATCH_REVISION"] = str(revision)
    env["ETCD_WATCH_EVENT_TYPE"] = f'"{name}"'
    env["ETCD_WATCH_KEY"] = quote(event.kv.key)
    env["ETCD_WATCH_VALUE"] = quote(event.kv.value)
    try:
        done = subprocess.run(command, env=env, capture_output=True, check=False)
    except OSError as failure:
        reason = os.strerror(failure.errno or 0).lower()
        text = f'exec: "{command[0]}": executable file not found in $PATH'
        if "/" in command[0]:
            text = f"fork/exec {command[0]}: {reason}"
    else:
        context.write(done.stdout)
        if done.stderr:
            context.warn(done.stderr.decode("utf-8", "surrogateescape").removesuffix("\n"))
        context.flush()
        if done.returncode == 0:
            return
        text = f"exit status {done.returncode}"
    shown = " ".join(quote(word.encode("utf-8", "surrogateescape")) for word in command)
    context.warn(f"command [{shown}] error ({text})")
    raise Exit(ERROR)


def _interactive(context: Context, ranges: list[str]) -> None:
    """Reads `watch ...` and `progress` lines; each watch runs in a thread of its own."""
    client = context.client()
    watches: list[Watch] = []
    try:
        _read_watches(context, client, ranges, watches)
    finally:
        for wanted in watches:
            wanted.is_over = True


def _read_watches(
    context: Context, client: Client, ranges: list[str], watches: list[Watch]
) -> None:
    while True:
        raw = context.stdin.readline()
        if not raw.endswith(b"\n"):
            text = "error reading watch request line: EOF"
            raise context.fail(INVALID_INPUT, text)
        line = raw[:-1].decode("utf-8", "surrogateescape")
        words = split(context, line)
        if not words:
            context.warn(f"Invalid command: {line} (watch and progress supported)")
        elif words[0] == "progress":
            for wanted in watches:
                wanted.requests.put(rpc.WatchRequest(progress_request=rpc.WatchProgressRequest()))
        elif words[0] != "watch":
            context.warn(f"Invalid command {line} (only support watch)")
        elif len(words) < 2 and not ranges:
            context.warn(f"Invalid command {line} (command type or key is not provided)")
        else:
            found = _from_line(context, words[1:], ranges, line)
            if found is not None:
                watches.append(found)
                arguments = (context, client, decoding(context, found.flags), found)
                threading.Thread(target=_follow_aside, args=arguments, daemon=True).start()


def _from_line(context: Context, words: list[str], ranges: list[str], line: str) -> Watch | None:
    command: list[str] = []
    if "--" in words:
        at = words.index("--")
        words, command = words[:at], words[at + 1 :]
        if not command:
            raise context.fail(BAD_ARGS, _SEPARATOR)
    flags = FlagSet(WATCH.local_flags())
    try:
        flags.parse(words)
    except FlagError as mistake:
        raise context.fail(BAD_ARGS, str(mistake)) from None
    if not flags.args and not ranges and not command:
        raise context.fail(BAD_ARGS, _COUNT)
    if flags.args and ranges and not command:
        raise context.fail(BAD_ARGS, _CONFLICT)
    try:
        return _watch(ranges + flags.args, flags, command)
    except BadWatch as mistake:
        context.warn(f"Invalid command {line} ({mistake})")
        return None
