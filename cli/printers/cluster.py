"""A cluster at one time, as `top` shows it, and its cells."""

from typing import Final, NamedTuple

from pyetcd.cli.gotext import human_bytes


class Member(NamedTuple):
    """One row. None: not known, because it is dead, has no /metrics or was asked only once."""

    id: int
    name: str
    endpoint: str
    role: str  # leader, follower, learner, unstarted, unknown
    version: str
    raft_term: int
    raft_index: int
    raft_applied: int
    lag: int | None  # entries that the most advanced member has and this one has not applied
    revision: int
    db_bytes: int
    in_use_bytes: int
    took_s: float
    keys: int | None
    watchers: int | None
    puts_s: float | None
    reads_s: float | None
    deletes_s: float | None
    sync_ms: float | None  # mean fsync of the log
    alarms: tuple[str, ...]
    marks: tuple[str, ...]  # dead, refused, unstarted; slow, behind, no leader
    error: str


class View(NamedTuple):
    """The cluster at one time."""

    cluster_id: int
    leader: str  # its name; empty without one
    term: int
    revision: int
    writes_s: float | None  # revisions a second
    members: tuple[Member, ...]

    @property
    def is_whole(self) -> bool:
        """Whether there is a leader, and all members that have ever started answered."""
        return bool(self.leader) and not any(
            member.error and member.role != "unstarted" for member in self.members
        )


HEADER: Final = (
    *("Member", "Endpoint", "Role", "Version", "Raft Term", "Raft Index", "Applied", "Lag"),
    *("Revision", "DB Size", "In Use", "Keys", "Watchers", "Puts/s", "Reads/s", "Deletes/s"),
    *("Fsync", "Took", "Alarms", "State"),
)
UNKNOWN: Final = "-"


def cells(member: Member) -> list[str]:
    """One row of the table; what is not known is a dash."""
    name = member.name or (f"{member.id:x}" if member.id else UNKNOWN)
    is_dead = bool(member.error)
    found = [name, member.endpoint or UNKNOWN, member.role]
    if is_dead:
        found += [UNKNOWN] * 8
    else:
        found += [
            member.version,
            str(member.raft_term),
            str(member.raft_index),
            str(member.raft_applied),
        ]
        found += [str(member.lag), str(member.revision)]
        found += [human_bytes(member.db_bytes), human_bytes(member.in_use_bytes)]
    found += [_whole(member.keys), _whole(member.watchers)]
    found += [rate(member.puts_s), rate(member.reads_s), rate(member.deletes_s)]
    found.append(UNKNOWN if member.sync_ms is None else f"{member.sync_ms:.1f} ms")
    found.append(UNKNOWN if is_dead else f"{member.took_s * 1000:.1f} ms")
    found.append(", ".join(member.alarms) or UNKNOWN)
    found.append(state(member))
    return found


def state(member: Member) -> str:
    """The marks, and why there is no answer."""
    text = ", ".join(member.marks) or "ok"
    return f"{text}: {member.error}" if member.error else text


def headline(view: View) -> str:
    """The cluster in a line."""
    leader = view.leader or "none"
    return (
        f"cluster {view.cluster_id:x}: leader {leader}, term {view.term},"
        f" revision {view.revision}, {rate(view.writes_s)} writes/s"
    )


def rate(value: float | None) -> str:
    """A number a second."""
    if value is None:
        return UNKNOWN
    return f"{value:.0f}" if value >= 10 or value == 0 else f"{value:.1f}"


def _whole(value: int | None) -> str:
    return UNKNOWN if value is None else str(value)
