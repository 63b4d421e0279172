"""`history`: every change of a key that the server still remembers; past.py finds them."""

from collections import deque
from collections.abc import Iterable, Iterator

from pyetcd.cli.context import Context
from pyetcd.cli.ctl.kv import decoding
from pyetcd.cli.ctl.pages import Reader, check_shown, interval
from pyetcd.cli.ctl.past import Past, Step
from pyetcd.cli.gotext import quote
from pyetcd.cli.printers.base import Display
from pyetcd.cli.printers.growing import Growing
from pyetcd.cli.printers.values import Value, message
from pyetcd.cli.terminal import BAD_ARGS


def history(context: Context) -> None:
    """`history`."""
    if len(context.args) != 1:
        raise context.fail(BAD_ARGS, "history command needs one argument as key")
    limit = context.flags.integer("limit")
    if limit < 0:
        raise context.fail(BAD_ARGS, "--limit must not be negative")
    key, range_end = context.arg(0), b""
    if context.flags.boolean("prefix"):
        key, range_end = interval(key)
    reader = Reader(context)
    display = decoding(context)
    check_shown(context, display, "simple", "json", "yaml")
    past = Past(context, reader, key, range_end)
    steps: Iterable[Step] = past
    if limit or context.flags.boolean("newest-first"):
        steps = _newest(past, limit, is_reversed=context.flags.boolean("newest-first"))
    if display.format == "simple":
        _show_text(context, past, steps)
    else:
        _show_rows(display, past, steps)


def _newest(past: Past, limit: int, *, is_reversed: bool) -> Iterator[Step]:
    """The newest of them, all if `limit` is 0; these are in memory."""
    kept = deque(past, maxlen=limit or None)
    yield from reversed(kept) if is_reversed else kept


def _show_text(context: Context, past: Past, steps: Iterable[Step]) -> None:
    is_first = True
    for step in steps:
        if is_first:
            _say_compacted(context, past)
            is_first = False
        context.print(_line(step))
    if is_first:
        _say_compacted(context, past)


def _say_compacted(context: Context, past: Past) -> None:
    if past.compact_revision:
        context.warn(f"compacted revision {past.compact_revision}: earlier changes are gone")


def _line(step: Step) -> str:
    pair = step.pair
    kind = "DELETE" if step.is_delete else "PUT"
    front = f"revision={pair.mod_revision} type={kind} key={quote(pair.key)}"
    if step.is_delete:
        return front
    return (
        f"{front} create_revision={pair.create_revision} version={pair.version}"
        f" lease={pair.lease:x} value={quote(pair.value)}"
    )


def _show_rows(display: Display, past: Past, steps: Iterable[Step]) -> None:
    growing: Growing | None = None
    for step in steps:
        growing = growing or _growing(display, past)
        kind = "DELETE" if step.is_delete else "PUT"
        growing.add({"type": kind, "kv": message(step.pair)})
    (growing or _growing(display, past)).end()


def _growing(display: Display, past: Past) -> Growing:
    head: dict[str, Value] = {"compact_revision": past.compact_revision, "revision": past.revision}
    return Growing(display, head, "events")
