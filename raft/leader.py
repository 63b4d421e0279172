"""What a leader does: replicate, count, confirm reads, hand over.

Each function takes the Raft object; step_leader is the entry, called by step.py for a message of
the current term or a local one. Order below: the dispatch, then one section per duty.

Rules:
- An append to a follower may leave before the leader itself has stored the entries (thesis
  10.2.1); the leader counts itself only when its own append is acknowledged in advance.
- A follower is sent as much as its progress allows and never waited for.
- Proposals are dropped, with an error, while leadership is being handed over (thesis 3.10) and
  when the leader is no member any more.
"""

from pyetcd.raft.codec import CodecError, decode_conf_change, decode_conf_change_v2
from pyetcd.raft.confchange import Configuration, as_v2
from pyetcd.raft.core import Raft
from pyetcd.raft.progress import Progress, ProgressState
from pyetcd.raft.types import (
    NONE,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryType,
    LogCompacted,
    LogLost,
    Message,
    MsgType,
    ProposalDropped,
    ReadState,
    Role,
    SnapshotTemporarilyUnavailable,
)


def step_leader(raft: Raft, message: Message) -> None:
    match message.type:
        case MsgType.PROP:
            propose(raft, message)
        case MsgType.APP_RESP:
            handle_append_response(raft, message)
        case MsgType.HEARTBEAT_RESP:
            handle_heartbeat_response(raft, message)
        case MsgType.BEAT:
            broadcast_heartbeat(raft)
        case MsgType.CHECK_QUORUM:
            check_quorum(raft)
        case MsgType.READ_INDEX:
            read_index(raft, message)
        case MsgType.SNAP_STATUS:
            handle_snapshot_status(raft, message)
        case MsgType.UNREACHABLE:
            handle_unreachable(raft, message)
        case MsgType.TRANSFER_LEADER:
            transfer_leader(raft, message)
        case _:
            pass  # late vote responses, or what only a follower acts on


def check_quorum(raft: Raft) -> None:
    """Step down when a majority was silent for an election timeout (thesis 6.2), so that clients
    of a cut-off leader fail fast and its log does not grow."""
    if not raft.quorum_active():
        raft.become_follower(raft.term, NONE)
        return
    for node, peer in raft.progress.items():
        if node != raft.id:
            peer.recent_active = False


# Proposals.


def propose(raft: Raft, message: Message) -> None:
    assert message.entries, "a proposal without entries"
    if raft.id not in raft.progress:
        raise ProposalDropped("this member was removed from the cluster")
    if raft.transferee != NONE:
        raise ProposalDropped(f"leadership is being transferred to {raft.transferee:x}")
    entries = list(message.entries)
    change_index = 0
    for position, entry in enumerate(entries):
        if entry.type == EntryType.NORMAL:
            continue
        index = raft.log.last_index + 1 + position
        refusal = _refuse_conf_change(raft, entry, max(change_index, raft.pending_conf_index))
        if not refusal:
            change_index = index
        elif len(entries) == 1:
            raise ProposalDropped(refusal)
        else:
            # Others share the message: keep the place in the log, without the change.
            entries[position] = Entry(0, 0)
    if not raft.append_proposal(entries):
        raise ProposalDropped("too much is waiting to be committed")
    if change_index:
        raft.pending_conf_index = change_index
        raft.trace("ChangeConf")
    broadcast_append(raft)


def _refuse_conf_change(raft: Raft, entry: Entry, pending_index: int) -> str:
    """Why a change may not be proposed now, or "". Best effort: the configuration in use may
    trail the log, so the same rules are enforced again when the change is applied."""
    try:
        change = _decode_change(entry)
    except CodecError as error:
        return f"not a configuration change: {error}"
    leaving = not change.changes
    if pending_index > raft.log.applied:
        return f"a configuration change may be pending at {pending_index}"
    if raft.conf.joint and not leaving:
        return "the joint configuration must be left first"
    if leaving and not raft.conf.joint:
        return "there is no joint configuration to leave"
    return ""


def _decode_change(entry: Entry) -> ConfChangeV2:
    if entry.type == EntryType.CONF_CHANGE:
        return as_v2(decode_conf_change(entry.data))
    return decode_conf_change_v2(entry.data)


def maybe_leave_joint(raft: Raft) -> None:
    """Propose to leave a joint configuration once it is applied. pending_conf_index makes it one
    proposal; if a transfer forbids it now, the next advance tries again."""
    if (
        raft.role == Role.LEADER
        and raft.conf.auto_leave
        and raft.log.applied >= raft.pending_conf_index
        and raft.transferee == NONE
        and raft.id in raft.progress
    ):
        leave = Entry(0, 0, EntryType.CONF_CHANGE_V2)  # no bytes decode as no change: leave
        propose(raft, Message(MsgType.PROP, from_=raft.id, entries=(leave,)))


# Replication.


def broadcast_append(raft: Raft) -> None:
    for node in raft.progress:
        if node != raft.id:
            send_append(raft, node)


def send_append(raft: Raft, to: int, *, if_empty: bool = True) -> bool:
    """Send entries from the follower's next on, or a snapshot if they are gone. False if nothing
    was sent: paused, or nothing new and if_empty is off."""
    peer = raft.progress[to]
    if peer.paused:
        return False
    log = raft.log
    previous = peer.next - 1
    entries: list[Entry] = []
    try:
        previous_term = log.term(previous)
        # With a full window an empty append still goes out: if every message in the window was
        # lost, its rejection or acknowledgement is what opens the window again.
        if peer.state != ProgressState.REPLICATE or not peer.inflights.full:
            entries = log.entries(peer.next, raft.message_bytes_max)
    except LogCompacted:
        return _send_snapshot(raft, to, peer)
    if not entries and not if_empty:
        return False
    raft.send(
        Message(
            MsgType.APP,
            to,
            log_term=previous_term,
            index=previous,
            entries=entries,
            commit=log.committed,
        )
    )
    peer.sent_entries(len(entries), sum([len(entry.data) for entry in entries]))
    peer.sent_commit = log.committed
    return True


def _send_snapshot(raft: Raft, to: int, peer: Progress) -> bool:
    """A snapshot is costly, so only to a follower that is known to be there."""
    if not peer.recent_active:
        return False
    try:
        snapshot = raft.log.unstable_snapshot or raft.config.storage.snapshot()
    except SnapshotTemporarilyUnavailable:
        return False
    assert snapshot.meta.index > 0, "entries are compacted, but no snapshot covers them"
    peer.become_snapshot(snapshot.meta.index)
    raft.send(Message(MsgType.SNAP, to, snapshot=snapshot))
    return True


def handle_append_response(raft: Raft, message: Message) -> None:
    node = message.from_
    peer = raft.progress.get(node)
    if peer is None:
        return
    peer.recent_active = True
    if message.index > raft.log.last_index and not message.reject:
        raise LogLost(
            f"member {node:x} has entries of this term up to {message.index}, "
            f"but the log of their leader ends at {raft.log.last_index}"
        )
    if message.reject:
        _handle_rejection(raft, peer, message)
        return
    # An acknowledgement of what we know already still proves that a probed follower answers.
    proven = peer.state == ProgressState.PROBE and message.index == peer.match
    if not peer.acked(message.index) and not proven:
        return
    if peer.state == ProgressState.PROBE:
        peer.become_replicate()
    elif peer.state == ProgressState.REPLICATE:
        peer.inflights.free_to(message.index)
    elif peer.match + 1 >= raft.log.first_index:
        # Any snapshot that lets replication go on is good, also an older one than we sent.
        peer.become_probe()
        peer.become_replicate()
    if raft.maybe_commit():
        _release_deferred_reads(raft)
        broadcast_append(raft)
    elif node != raft.id and peer.can_bump_commit(raft.log.committed):
        send_append(raft, node)
    if node == raft.id:
        return
    # The acknowledgement may have opened the window for several messages.
    while send_append(raft, node, if_empty=False):
        pass
    if node == raft.transferee and peer.match == raft.log.last_index:
        raft.send(Message(MsgType.TIMEOUT_NOW, node))


def _handle_rejection(raft: Raft, peer: Progress, message: Message) -> None:
    """The logs differ before message.index. The follower hints where they may still agree, and
    the terms of our own log often allow a larger step back: see log.find_conflict_by_term."""
    hint = message.reject_hint
    if message.log_term:
        hint, _ = raft.log.find_conflict_by_term(hint, message.log_term)
    if peer.rejected(message.index, hint):
        if peer.state == ProgressState.REPLICATE:
            peer.become_probe()
        send_append(raft, message.from_)


def handle_heartbeat_response(raft: Raft, message: Message) -> None:
    peer = raft.progress.get(message.from_)
    if peer is None:
        return
    peer.recent_active = True
    peer.flow_paused = False
    # Also to a caught-up follower in PROBE: it answers, and that lifts it back to REPLICATE.
    if peer.match < raft.log.last_index or peer.state == ProgressState.PROBE:
        send_append(raft, message.from_)
    if message.context:
        _confirm_reads(raft, message.from_, message.context)


def handle_snapshot_status(raft: Raft, message: Message) -> None:
    peer = raft.progress.get(message.from_)
    if peer is None or peer.state != ProgressState.SNAPSHOT:
        return
    if message.reject:
        peer.pending_snapshot = 0  # it has not arrived: probe from match
    peer.become_probe()
    # Delivered: wait for the acknowledgement. Failed: wait for the next heartbeat response.
    peer.flow_paused = True


def handle_unreachable(raft: Raft, message: Message) -> None:
    """What was streamed optimistically is probably lost: probe."""
    peer = raft.progress.get(message.from_)
    if peer is not None and peer.state == ProgressState.REPLICATE:
        peer.become_probe()


def switch_configuration(raft: Raft, conf: Configuration) -> ConfState:
    """A committed change is applied, on any role; a leader also acts on the new majority."""
    state = raft.set_configuration(conf)
    if raft.role != Role.LEADER:
        return state
    if raft.id not in raft.progress or raft.is_learner:
        if raft.config.step_down_on_removal:
            raft.become_follower(raft.term, NONE)
        return state
    if raft.transferee not in conf.all_voters:
        raft.transferee = NONE
    if raft.maybe_commit():  # fewer acknowledgements may be enough now
        _release_deferred_reads(raft)
        broadcast_append(raft)
        return state
    for node in raft.progress:
        if node != raft.id:
            send_append(raft, node, if_empty=False)  # new members need not wait for a heartbeat
    return state


# Heartbeats and reads (thesis 6.4).


def broadcast_heartbeat(raft: Raft) -> None:
    """One round for every read that waits. The commit index sent is one the follower holds, as
    it must not commit what may differ in its log."""
    context = raft.reads.start_round(raft.id)
    for node, peer in raft.progress.items():
        if node != raft.id:
            commit = min(peer.match, raft.log.committed)
            raft.send(Message(MsgType.HEARTBEAT, node, commit=commit, context=context))
            peer.sent_commit = max(peer.sent_commit, commit)
    if context:
        _confirm_reads(raft, raft.id, context)  # alone, the leader is the majority


def flush_reads(raft: Raft) -> None:
    """Before a Ready is made: one round of heartbeats for all reads of this turn."""
    if raft.reads.has_open_round:
        broadcast_heartbeat(raft)


def read_index(raft: Raft, message: Message) -> None:
    if len(message.entries) != 1:
        return  # a peer's mistake: there is no context to answer with
    if raft.committed_in_term():
        raft.reads.add(message, raft.log.committed)
    else:
        raft.reads.defer(message)


def _release_deferred_reads(raft: Raft) -> None:
    if raft.reads.deferred and raft.committed_in_term():
        deferred, raft.reads.deferred = raft.reads.deferred, []
        for message in deferred:
            raft.reads.add(message, raft.log.committed)


def _confirm_reads(raft: Raft, node: int, context: bytes) -> None:
    for request, index in raft.reads.acknowledge(node, context, raft.conf):
        if request.from_ in (NONE, raft.id):
            raft.read_states.append(ReadState(index, request.entries[0].data))
        else:
            raft.send(
                Message(
                    MsgType.READ_INDEX_RESP, request.from_, index=index, entries=request.entries
                )
            )


# Handing over (thesis 3.10).


def transfer_leader(raft: Raft, message: Message) -> None:
    """message.from_ is the node to lead next. It is brought up to date, then told to campaign at
    once; meanwhile proposals are dropped, for at most one election timeout."""
    target = message.from_
    peer = raft.progress.get(target)
    if peer is None or peer.is_learner or target in (raft.id, raft.transferee):
        if target == raft.id:
            raft.transferee = NONE  # asked to keep leading: that ends a transfer under way
        return
    raft.election_elapsed = 0
    raft.transferee = target
    if peer.match == raft.log.last_index:
        raft.send(Message(MsgType.TIMEOUT_NOW, target))
    else:
        send_append(raft, target)
