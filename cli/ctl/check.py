"""`check perf` and `check datascale`: whether a cluster holds out under a load of writes.

The keys are deleted afterwards, in 30 seconds at most for `perf`. ^C ends the load early: `perf`
then judges what there was, as etcdctl does; `datascale` deletes its keys before it ends, where
etcdctl leaves them. A second ^C ends the process at once.
"""

import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any

from pyetcd.cli import gotext
from pyetcd.cli.context import Context
from pyetcd.cli.ctl import check_figures as known
from pyetcd.cli.terminal import BAD_FEATURE, ERROR, INVALID_INPUT, Exit

if TYPE_CHECKING:
    from pyetcd.cli.client import Client, Settings
    from pyetcd.cli.ctl.check_bar import Bar
    from pyetcd.cli.ctl.check_load import Plan

CLEANUP_S = COMPACT_S = DEFRAG_S = 30.0
_UNREAD = "FAIL: Could not read process_resident_memory_bytes {} the put operations."


def perf(context: Context) -> None:
    """`check perf`."""
    measure(context, known.PERF[_load_name(context)])


def measure(context: Context, load: known.PerfLoad) -> None:
    """`check perf` with this load."""
    from pyetcd.cli.ctl.check_load import Plan

    check = Check(context)
    with Interrupt() as interrupt:
        try:
            check.expect_no_keys("'", timeout_s=float(load.duration_s))
        except KeyboardInterrupt:
            raise check.cancelled() from None
        plan = Plan(
            check.prefix,
            known.PERF_KEY_BYTES,
            known.PERF_VALUE_BYTES,
            load.clients,
            load.writes_per_s,
            load.duration_s,
        )
        found = check.put_all(plan, interrupt, check.bar(load.duration_s))
        check.clean_up()
        check.defragment()
    lines, is_well = known.verdict(found, load.writes_per_s)
    check.say([*lines, "PASS" if is_well else "FAIL"])
    if not is_well:
        raise Exit(ERROR)


def datascale(context: Context) -> None:
    """`check datascale`."""
    weigh(context, known.SCALE[_load_name(context)])


def weigh(context: Context, load: known.ScaleLoad) -> None:
    """`check datascale` with this load."""
    from pyetcd.cli.ctl.check_load import Plan

    check = Check(context)
    check.expect_no_keys("", timeout_s=None)
    before_bytes = check.memory_bytes("before")
    pair_bytes = known.SCALE_KEY_BYTES + known.SCALE_VALUE_BYTES
    check.say(
        [
            f"Start data scale check for work load [{load.keys} key-value pairs,"
            f" {pair_bytes} bytes per key-value, {load.clients} concurrent clients]."
        ]
    )
    plan = Plan(
        check.prefix,
        known.SCALE_KEY_BYTES,
        known.SCALE_VALUE_BYTES,
        load.clients,
        total=load.keys,
    )
    with Interrupt() as interrupt:
        found = check.put_all(plan, interrupt, check.bar(load.keys))
        if interrupt.is_set:
            check.clean_up(may_compact=False)
    if interrupt.is_set:
        context.flush()
        signal.raise_signal(signal.SIGINT)
    after_bytes = check.memory_bytes("after")
    check.delete()
    check.defragment()
    if found.errors:
        check.say(known.error_lines(found.errors))
        raise Exit(ERROR)
    check.say([known.memory_line(before_bytes, after_bytes)])


def _load_name(context: Context) -> str:
    name = context.flags.text("load")
    if name not in known.ALIASES:
        raise context.fail(BAD_FEATURE, f"unknown load option {name}")
    return known.ALIASES[name]


class Interrupt:
    """^C, once: before the load it is a KeyboardInterrupt, from then on it is only noted. After
    that it does again what it did."""

    def __init__(self) -> None:
        self.is_set = False
        self.is_noting = False
        self._old: Any = None

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            self._old = signal.signal(signal.SIGINT, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _take(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        if not self.is_noting:
            raise KeyboardInterrupt
        self.is_set = True

    def _restore(self) -> None:
        if self._old is not None:
            signal.signal(signal.SIGINT, self._old)
            self._old = None


class Check:
    """What both checks do."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._settings: Settings = context.settings()
        self._client: Client = context.dial(self._settings.endpoints, self._settings)
        self.prefix = context.flags.text("prefix").encode("utf-8", "surrogateescape")

    def expect_no_keys(self, quote: str, *, timeout_s: float | None) -> None:
        """Exits when there is a key under the prefix already. `quote` stands around the advice."""
        from pyetcd.cli import client as calls
        from pyetcd.proto import rpc_pb2 as rpc

        start, end = self._range()
        request = rpc.RangeRequest(key=start, range_end=end, limit=1)
        try:
            answer = self._client.call(calls.RANGE, request, timeout_s=timeout_s)
        except calls.ClientError as failure:
            raise self._context.fail(ERROR, failure.text) from None
        if answer.kvs:
            prefix = self._context.flags.text("prefix")
            text = (
                f"prefix {gotext.quote(self.prefix)} has keys."
                f" Delete with {quote}etcdctl del --prefix {prefix}{quote} first"
            )
            raise self._context.fail(INVALID_INPUT, text)

    def cancelled(self) -> Exit:
        """^C before the load; the caller raises what it gets."""
        failure = self._client.cancelled()
        self._client.note(failure)
        return self._context.fail(ERROR, failure.text)

    def _range(self) -> tuple[bytes, bytes]:
        from pyetcd.proto.keys import FROM_KEY, prefix_end

        if not self.prefix:
            return FROM_KEY, FROM_KEY
        return self.prefix, prefix_end(self.prefix)

    def put_all(self, plan: "Plan", interrupt: Interrupt, bar: "Bar") -> known.Figures:
        """Runs the load."""
        from pyetcd.cli.ctl.check_load import Run

        run = Run(
            plan,
            self._client,
            self._settings,
            is_stopped=lambda: interrupt.is_set,
            is_logging=not self._context.is_for_person,
        )
        interrupt.is_noting = True
        try:
            return run.put_all(bar)
        finally:
            bar.leave()

    def bar(self, total: int) -> "Bar":
        """The progress bar for who reads it."""
        from pyetcd.cli.ctl.check_bar import RichBar, TextBar, text_width

        if self._context.is_for_person:
            from pyetcd.cli.printers.person import console

            title = f"check {self._context.command.name}"
            person = console(self._context, self._context.env, hides_cursor=True)
            return RichBar(total, title, person)
        return TextBar(total, text_width(), self._write)

    def _write(self, raw: bytes) -> None:
        self._context.write(raw)
        self._context.flush()

    def clean_up(self, *, may_compact: bool = True) -> None:
        """Deletes the keys; that it fails is said, and does not end the command."""
        from pyetcd.cli.client import ClientError

        try:
            revision = self._delete(CLEANUP_S)
        except ClientError as failure:
            text = f"FAIL: Cleanup failed during key deletion: ERROR({failure.text})"
            self.say([text])
            return
        if may_compact:
            self._compact(revision)

    def delete(self) -> None:
        """Deletes the keys, however long it takes; exits when it fails."""
        from pyetcd.cli.client import ClientError

        try:
            revision = self._delete(None)
        except ClientError as failure:
            raise self._context.fail(ERROR, failure.text) from None
        self._compact(revision)

    def _delete(self, timeout_s: float | None) -> int:
        from pyetcd.cli import client as calls
        from pyetcd.proto import rpc_pb2 as rpc

        start, end = self._range()
        request = rpc.DeleteRangeRequest(key=start, range_end=end)
        answer = self._client.call(calls.DELETE_RANGE, request, timeout_s=timeout_s)
        return answer.header.revision

    def _compact(self, revision: int) -> None:
        """Compacts to this revision, if that is wanted (--auto-compact)."""
        from pyetcd.cli import client as calls
        from pyetcd.proto import rpc_pb2 as rpc

        if not self._context.flags.boolean("auto-compact"):
            return
        self.say([f"Compacting with revision {revision}"])
        request = rpc.CompactionRequest(revision=revision, physical=True)
        try:
            self._client.call(calls.COMPACT, request, timeout_s=COMPACT_S)
        except calls.ClientError as failure:
            raise self._context.fail(ERROR, failure.text) from None
        self.say([f"Compacted with revision {revision}"])

    def defragment(self) -> None:
        """Defragments each endpoint, if that is wanted (--auto-defrag)."""
        from pyetcd.cli import client as calls
        from pyetcd.proto import rpc_pb2 as rpc

        if not self._context.flags.boolean("auto-defrag"):
            return
        for endpoint in self._client.endpoints:
            shown = gotext.quote(endpoint.encode("utf-8", "surrogateescape"))
            self.say([f"Defragmenting {shown}"])
            try:
                self._client.at(endpoint).call(
                    calls.DEFRAGMENT, rpc.DefragmentRequest(), timeout_s=DEFRAG_S
                )
            except calls.ClientError as failure:
                raise self._context.fail(ERROR, failure.text) from None
            self.say([f"Defragmented {shown}"])

    def memory_bytes(self, when: str) -> float:
        """The resident memory of the first endpoint's server; exits when it says none."""
        from pyetcd.cli.ctl.check_memory import Unread, resident_bytes

        try:
            return resident_bytes(self._settings.endpoints[0], self._settings)
        except Unread as failure:
            self.say([str(failure)] if str(failure) else [])
        self.say([_UNREAD.format(when)])
        raise Exit(ERROR)

    def say(self, lines: list[str]) -> None:
        """Lines on stdout, at once; in colour for a person."""
        if self._context.is_for_person:
            from rich.text import Text

            from pyetcd.cli.printers.person import console

            out = console(self._context, self._context.env)
            for line in lines:
                out.print(Text(line, _style(line)), soft_wrap=True)
            return
        for line in lines:
            self._context.print(line)
        self._context.flush()


def _style(line: str) -> str:
    if line.startswith("PASS"):
        return "green"
    return "red" if line.startswith(("FAIL", "Slowest", "Stddev")) else ""
