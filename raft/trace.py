"""Raft transitions as NDJSON, in the shape that the TLA+ trace validation of etcd's raft reads.

Strategy: core.Raft calls config.trace at each transition; ndjson(write) makes such a callback,
which writes one JSON object per line. Run a simulation with it, give the file to TLC with the
model of etcd-io/raft (tla/), and the model checks that every step was one it allows.

Limits: the events of Replicate stand for a batch and not for an entry, and the changes of a
ChangeConf are not listed.
"""

import json
from collections.abc import Callable, Iterable

from pyetcd.raft.core import Raft
from pyetcd.raft.types import Message, MsgType, Role

ROLES = {
    Role.FOLLOWER: "StateFollower",
    Role.CANDIDATE: "StateCandidate",
    Role.LEADER: "StateLeader",
    Role.PRE_CANDIDATE: "StatePreCandidate",
}
# Messages that the model knows; others (pre-votes, reads, proposals) are not traced.
EVENTS = {
    MsgType.APP: "AppendEntriesRequest",
    MsgType.HEARTBEAT: "AppendEntriesRequest",
    MsgType.SNAP: "AppendEntriesRequest",
    MsgType.APP_RESP: "AppendEntriesResponse",
    MsgType.HEARTBEAT_RESP: "AppendEntriesResponse",
    MsgType.VOTE: "RequestVoteRequest",
    MsgType.VOTE_RESP: "RequestVoteResponse",
}


def ndjson(write: Callable[[str], object]) -> Callable[[Raft, str, Message | None], None]:
    """A callback for Config.trace; write gets one line with its newline."""

    def trace(raft: Raft, event: str, message: Message | None) -> None:
        if message is not None:
            if message.type not in EVENTS:
                return
            event += EVENTS[message.type]
        write(json.dumps({"tag": "trace", "event": _event(raft, event, message)}) + "\n")

    return trace


def _event(raft: Raft, name: str, message: Message | None) -> dict[str, object]:
    event: dict[str, object] = {
        "name": name,
        "nid": str(raft.id),
        "state": {"term": raft.term, "vote": str(raft.vote), "commit": raft.log.committed},
        "role": ROLES[raft.role],
        "log": raft.log.last_index,
        "conf": [_ids(raft.conf.voters), _ids(raft.conf.outgoing)],
    }
    if message is not None:
        event["msg"] = _message(message)
    if name == "ApplyConfChange":
        event["prop"] = {"cc": {"newconf": _ids(raft.conf.voters)}}
    return event


def _ids(ids: Iterable[int]) -> list[str]:
    return [str(node) for node in sorted(ids)]


def _message(message: Message) -> dict[str, object]:
    # A snapshot is, to the model, an append of everything up to its index.
    snapshot = message.snapshot
    return {
        "type": "Msg" + "".join(word.capitalize() for word in message.type.name.split("_")),
        "term": message.term,
        "from": str(message.from_),
        "to": str(message.to),
        "entries": snapshot.meta.index if snapshot else len(message.entries),
        "logTerm": 0 if snapshot else message.log_term,
        "index": 0 if snapshot else message.index,
        "commit": message.commit,
        "vote": "0",
        "reject": message.reject,
        "rejectHint": message.reject_hint,
    }
