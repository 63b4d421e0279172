"""One line of text for a message, an entry, a Ready: for logs and for the test transcripts.

Fields that are zero are left out. The text is for people; nothing parses it.

    1->2 APP term=3 prev=11/2 entries=[12/3 "x", 13/3 "y"] commit=11
    2->1 APP_RESP term=3 index=13
"""

from collections.abc import Callable

from pyetcd.raft.codec import CodecError, decode_conf_change, decode_conf_change_v2
from pyetcd.raft.confchange import Configuration, as_v2, to_state
from pyetcd.raft.types import (
    ConfChangeType,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MsgType,
    Ready,
    Snapshot,
)

# Longer payloads are cut: a log line is not a dump.
PAYLOAD_CHARS_MAX = 40

_SIGN = {
    ConfChangeType.ADD_NODE: "+",
    ConfChangeType.REMOVE_NODE: "-",
    ConfChangeType.UPDATE_NODE: "update ",
    ConfChangeType.ADD_LEARNER_NODE: "learner ",
}


def describe_message(message: Message, payload: Callable[[bytes], str] | None = None) -> str:
    """payload turns the data of an entry into text; by default it is shown as a string."""
    parts = [f"{message.from_:x}->{message.to:x} {message.type.name} term={message.term}"]
    if message.type == MsgType.APP:
        parts.append(f"prev={message.index}/{message.log_term}")
    elif message.type in (MsgType.VOTE, MsgType.PRE_VOTE):
        parts.append(f"last={message.index}/{message.log_term}")
    elif message.index:
        parts.append(f"index={message.index}")
    if message.reject:
        parts.append("reject")
        if message.type == MsgType.APP_RESP:
            parts.append(f"hint={message.reject_hint}/{message.log_term}")
    if message.entries:
        parts.append(f"entries=[{', '.join(describe_entry(e, payload) for e in message.entries)}]")
    if message.commit:
        parts.append(f"commit={message.commit}")
    if message.snapshot is not None:
        parts.append(describe_snapshot(message.snapshot))
    if message.context:
        parts.append(f"context={_text(message.context)}")
    return " ".join(parts)


def describe_entry(entry: Entry, payload: Callable[[bytes], str] | None = None) -> str:
    where = f"{entry.index}/{entry.term}"
    if entry.type != EntryType.NORMAL:
        return f"{where} {_change_text(entry)}"
    return f"{where} {(payload or _text)(entry.data)}" if entry.data else where


def _change_text(entry: Entry) -> str:
    try:
        if entry.type == EntryType.CONF_CHANGE:
            change = as_v2(decode_conf_change(entry.data))
        else:
            change = decode_conf_change_v2(entry.data)
    except CodecError:
        return "change(unreadable)"
    singles = " ".join(f"{_SIGN[single.type]}{single.node_id:x}" for single in change.changes)
    return f"change({singles or 'leave joint'})"


def _text(data: bytes) -> str:
    """Printable bytes as a string, others in hex."""
    if data.isascii() and data.decode("ascii").isprintable():
        text = '"' + data.decode("ascii") + '"'
    else:
        text = "0x" + data.hex()
    return text if len(text) <= PAYLOAD_CHARS_MAX else text[:PAYLOAD_CHARS_MAX] + "..."


def describe_snapshot(snapshot: Snapshot) -> str:
    meta = snapshot.meta
    return f"snapshot={meta.index}/{meta.term} {describe_conf_state(meta.conf_state)}"


def describe_conf_state(state: ConfState) -> str:
    """voters=(1 2 3)&&(1 2) learners=(4) next=(2) auto"""
    text = f"voters={_ids(state.voters)}"
    if state.voters_outgoing:
        text += f"&&{_ids(state.voters_outgoing)}"
    if state.learners:
        text += f" learners={_ids(state.learners)}"
    if state.learners_next:
        text += f" next={_ids(state.learners_next)}"
    return text + (" auto" if state.auto_leave else "")


def describe_configuration(conf: Configuration) -> str:
    return describe_conf_state(to_state(conf))


def _ids(ids: tuple[int, ...]) -> str:
    return "(" + " ".join(f"{node:x}" for node in ids) + ")"


def describe_hard_state(state: HardState) -> str:
    return f"term={state.term} vote={state.vote:x} commit={state.commit}"


def describe_ready(ready: Ready, payload: Callable[[bytes], str] | None = None) -> list[str]:
    """A line per kind of duty, in the order in which they are done."""
    lines = []
    if ready.soft_state is not None:
        lines.append(f"{ready.soft_state.role.name} leader={ready.soft_state.leader:x}")
    lines += [f"send {describe_message(message, payload)}" for message in ready.messages]
    if ready.snapshot is not None:
        lines.append(f"store {describe_snapshot(ready.snapshot)}")
    if ready.entries:
        lines.append(f"store {', '.join(describe_entry(e, payload) for e in ready.entries)}")
    if ready.hard_state is not None:
        synced = "" if ready.must_sync else " (lazily)"
        lines.append(f"store {describe_hard_state(ready.hard_state)}{synced}")
    lines += [
        f"then send {describe_message(message, payload)}" for message in ready.messages_after_append
    ]
    if ready.committed_entries:
        entries = ready.committed_entries
        lines.append(f"apply {', '.join(describe_entry(entry, payload) for entry in entries)}")
    lines += [f"read {_text(state.context)} at {state.index}" for state in ready.read_states]
    return lines
