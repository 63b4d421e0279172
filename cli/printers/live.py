"""The picture that `top` draws: a line about the cluster, its writes over time, a row a member.

A terminal that is too narrow loses the columns that matter least.
"""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pyetcd.cli.context import Context
from pyetcd.cli.printers.cluster import HEADER, Member, View, cells, headline
from pyetcd.cli.printers.person import console

_BARS: Final = "▁▂▃▄▅▆▇█"
# The first to go stands first. Never: who it is, its role, its state.
_LEAST: Final = (
    *("Raft Term", "Deletes/s", "Applied", "Watchers", "Version", "In Use", "Raft Index", "Fsync"),
    *("Keys", "Reads/s", "Took", "Endpoint", "Alarms", "Puts/s", "DB Size", "Revision", "Lag"),
)
_LEFT: Final = frozenset(("Member", "Endpoint", "Role", "Version", "Alarms", "State"))
_STATE_COLUMNS: Final = 12


class Picture:
    """A screen of its own, as long as the block lasts."""

    def __init__(self, context: Context, interval_s: float) -> None:
        self._console = console(context, context.env, hides_cursor=True)
        self._interval_s = interval_s
        waiting = Text("asking the members ...", style="dim")
        self._live = Live(waiting, console=self._console, screen=True, auto_refresh=False)

    def __enter__(self) -> "Picture":
        self._live.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def draw(self, view: View, rates: Sequence[float]) -> None:
        """Shows this sample."""
        width = self._console.width
        self._live.update(
            Group(
                _headline(view),
                _spark(rates, width),
                members(view, width),
                Text(f"q quits; every {self._interval_s:g} s; {time.strftime('%H:%M:%S')}", "dim"),
            ),
            refresh=True,
        )


def _headline(view: View) -> Text:
    text = Text(headline(view), style="bold")
    if not view.leader:
        text.append("  NO LEADER", style="bold red")
    alarms = sorted({name for member in view.members for name in member.alarms})
    if alarms:
        text.append("  ALARM " + ", ".join(alarms), style="bold red")
    return text


def _spark(rates: Sequence[float], width: int) -> Text:
    """The last writes a second as bars, the highest of them a full one."""
    kept = list(rates)[-max(width - 20, 1) :]
    top = max(kept, default=0.0)
    bars = "".join(
        _BARS[round(rate / top * (len(_BARS) - 1))] if top else _BARS[0] for rate in kept
    )
    return Text.assemble((bars, "green"), (f" writes/s, at most {top:.0f}" if kept else "", "dim"))


def members(view: View, width: int) -> Table:
    """A row a member, as wide as the terminal."""
    rows = [cells(member) for member in view.members]
    kept = _fitting(rows, width)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), width=width)
    for name in kept:
        is_state = name == "State"
        table.add_column(
            name,
            justify="left" if name in _LEFT else "right",
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if is_state else None,
        )
    for member, row in zip(view.members, rows, strict=True):
        at = dict(zip(HEADER, row, strict=True))
        table.add_row(*(Text(at[name]) for name in kept), style=_style(member))
    return table


def _fitting(rows: list[list[str]], width: int) -> list[str]:
    needs = {
        name: max(len(name), *(len(row[at]) for row in rows), 0) + 3  # padding and a line
        for at, name in enumerate(HEADER)
    }
    needs["State"] = _STATE_COLUMNS
    for name in _LEAST:
        if sum(needs.values()) <= width:
            break
        del needs[name]
    return [name for name in HEADER if name in needs]


def _style(member: Member) -> str:
    if member.error:
        return "red" if member.role != "unstarted" else "dim"
    if member.marks or member.alarms:
        return "yellow"
    return {"leader": "bold green", "learner": "cyan"}.get(member.role, "")
