"""bounds: no queue of a member is longer than its module says, whatever happens."""

from typing import Any

from sim.checks.violation import Violation

from pyetcd.server import loop, membership, propose, reads
from pyetcd.store import streams, tail

EVERY_TURNS = 64


def check_bounds(who: str, process: Any) -> None:
    core, driver, waiting = process.core, process.driver, process.reads
    raft, log_tail, hub = process.node.raft, process.wal._tail, process.machine.hub
    lengths = [
        ("messages", len(driver._messages), loop.MESSAGES_MAX),
        ("held proposals of others", len(driver._held), loop.HELD_MAX),
        ("proposals", len(driver._proposals), propose.PENDING_MAX),
        ("callers of proposals", len(core.proposer._waiting), propose.PENDING_MAX),
        ("reads", len(waiting._queued) + len(waiting._round), reads.WAITING_MAX),
        ("reads of raft", len(raft.reads), raft.config.reads_max),
        ("member changes", len(process.membership._changes), membership.CHANGES_MAX),
        ("entries of the log", len(log_tail._entries), max(1, tail.ENTRIES_MAX)),
    ]
    lengths += [
        (f"appends on their way to {id:x}", len(peer.inflights), raft.config.inflight_max)
        for id, peer in raft.progress.items()
    ]
    # The reply that fills a queue still goes in, and those that end watchers.
    lengths += [
        ("replies of a watch", len(s._queue), streams.REPLIES_MAX + 1 + len(s._ended))
        for s in hub._dirty
    ]
    if len(log_tail._entries) > 1:
        held = log_tail._sums[-1] - log_tail._sums[0]
        lengths.append(("bytes of the log", held, tail.BYTES_MAX))
    for name, found, most in lengths:
        if found > most:
            raise Violation("bounds", f"{who} holds {found} {name}, at most {most}")
