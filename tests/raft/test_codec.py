"""Bytes on the wire and in the log: by hand, against upb, and there and back again."""

from dataclasses import astuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyetcd.proto import raft_pb2 as pb
from pyetcd.raft import codec
from pyetcd.raft.types import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MsgType,
    Snapshot,
    SnapshotMeta,
)

uint64 = st.one_of(st.integers(0, 300), st.integers(0, 2**64 - 1))
data = st.binary(max_size=40)
ids = st.lists(uint64, max_size=3).map(tuple)
entries = st.builds(Entry, uint64, uint64, st.sampled_from(EntryType), data)
conf_states = st.builds(ConfState, ids, ids, ids, ids, st.booleans())
metas = st.builds(SnapshotMeta, uint64, uint64, conf_states)
snapshots = st.builds(Snapshot, metas, data)
messages = st.builds(
    Message,
    st.sampled_from([kind for kind in MsgType if kind != MsgType.SNAP]),
    uint64,
    uint64,
    uint64,
    uint64,
    uint64,
    st.lists(entries, max_size=3),
    uint64,
    st.none(),
    st.booleans(),
    uint64,
    data,
)
hard_states = st.builds(HardState, uint64, uint64, uint64)
changes = st.builds(ConfChange, st.sampled_from(ConfChangeType), uint64, data, uint64)
singles = st.builds(ConfChangeSingle, st.sampled_from(ConfChangeType), uint64)
changes_v2 = st.builds(
    ConfChangeV2,
    st.lists(singles, max_size=3).map(tuple),
    st.sampled_from(ConfChangeTransition),
    data,
)


def test_by_hand() -> None:
    """Checked against the fields of etcd's encoder (raft/raftpb/raft.pb.go, MarshalToSizedBuffer):
    every scalar is there, also the zeros; so is the empty snapshot with its empty metadata."""
    heartbeat = Message(MsgType.HEARTBEAT, to=2, from_=1, term=300, commit=5)
    assert (
        codec.encode_message(heartbeat)
        == bytes.fromhex(
            "0808"  # type
            "1002"  # to
            "1801"  # from
            "20ac02"  # term 300
            "2800"  # logTerm
            "3000"  # index
            "4005"  # commit
            "4a0a" + "1208" + "0a022800" + "10001800"  # snapshot: metadata: conf state, index, term
            "5000"  # reject
            "5800"  # rejectHint
        )
    )
    entry = Entry(3, 9, EntryType.CONF_CHANGE, b"ab")
    assert codec.encode_entry(entry) == bytes.fromhex("08011003180922026162")
    assert codec.encode_entry(Entry(3, 9)) == bytes.fromhex("080010031809")
    assert codec.encode_hard_state(HardState(1, 2, 3)) == bytes.fromhex("080110021803")
    state = ConfState((1, 2), (3,), (4,), (5,), auto_leave=True)
    assert codec.encode_conf_state(state) == bytes.fromhex("080108021003180420052801")
    change = ConfChange(ConfChangeType.REMOVE_NODE, 200, b"x", id=7)
    assert codec.encode_conf_change(change) == bytes.fromhex("0807100118c801220178")
    single = ConfChangeSingle(ConfChangeType.ADD_LEARNER_NODE, 4)
    change_v2 = ConfChangeV2((single,), ConfChangeTransition.JOINT_EXPLICIT, b"y")
    assert codec.encode_conf_change_v2(change_v2) == bytes.fromhex("08021204080310041a0179")


@given(messages)
def test_messages(message: Message) -> None:
    encoded = codec.encode_message(message)
    assert codec.decode_message(encoded) == message
    assert encoded == _by_upb(message).SerializeToString()


@given(snapshots, uint64)
def test_snapshot_messages(snapshot: Snapshot, term: int) -> None:
    message = Message(MsgType.SNAP, 2, 1, term, entries=[], snapshot=snapshot)
    encoded = codec.encode_message(message)
    assert codec.decode_message(encoded) == message
    assert encoded == _by_upb(message).SerializeToString()


@given(entries)
def test_entries(entry: Entry) -> None:
    encoded = codec.encode_entry(entry)
    assert codec.decode_entry(encoded) == entry
    assert encoded == _entry_by_upb(entry).SerializeToString()


@given(hard_states, conf_states, metas, snapshots, changes, changes_v2)
def test_the_rest(
    hard: HardState,
    conf: ConfState,
    meta: SnapshotMeta,
    snapshot: Snapshot,
    change: ConfChange,
    change_v2: ConfChangeV2,
) -> None:
    assert codec.decode_hard_state(codec.encode_hard_state(hard)) == hard
    assert codec.decode_conf_state(codec.encode_conf_state(conf)) == conf
    assert codec.encode_conf_state(conf) == _conf_by_upb(conf).SerializeToString()
    assert codec.decode_snapshot_meta(codec.encode_snapshot_meta(meta)) == meta
    assert codec.decode_snapshot(codec.encode_snapshot(snapshot)) == snapshot
    assert codec.encode_snapshot(snapshot) == _snapshot_by_upb(snapshot).SerializeToString()
    assert codec.decode_conf_change(codec.encode_conf_change(change)) == change
    assert codec.decode_conf_change_v2(codec.encode_conf_change_v2(change_v2)) == change_v2


@given(st.binary(max_size=60))
def test_garbage_is_refused_or_read(raw: bytes) -> None:
    for decode in (codec.decode_message, codec.decode_entry, codec.decode_conf_change_v2):
        try:
            decode(raw)
        except codec.CodecError:
            pass


def test_unknown_message_type_is_a_local_one() -> None:
    """A newer member may have types that we do not know; RawNode.step refuses them as local."""
    assert codec.decode_message(b"\x08\x63\x10\x01").type == MsgType.HUP


def test_no_bytes_are_the_empty_change() -> None:
    assert codec.decode_conf_change_v2(b"") == ConfChangeV2()


@pytest.mark.parametrize("number", [0, 127, 128, 2**14 - 1, 2**14, 2**28, 2**35, 2**64 - 1])
def test_varints(number: int) -> None:
    assert codec.decode_hard_state(codec.encode_hard_state(HardState(number))).term == number


def _by_upb(message: Message) -> pb.Message:
    """The same by protobuf, with the fields set that etcd always writes."""
    kind, to, sender, term, log_term, index, _, commit, _, reject, hint, context = astuple(message)
    built = pb.Message(
        type=pb.MessageType.Name(kind),
        to=to,
        term=term,
        logTerm=log_term,
        index=index,
        entries=[_entry_by_upb(entry) for entry in message.entries],
        commit=commit,
        snapshot=_snapshot_by_upb(message.snapshot or Snapshot()),
        reject=reject,
        rejectHint=hint,
    )
    setattr(built, "from", sender)
    if context:
        built.context = context
    return built


def _entry_by_upb(entry: Entry) -> pb.Entry:
    built = pb.Entry(Type=pb.EntryType.Name(entry.type), Term=entry.term, Index=entry.index)
    if entry.data:
        built.Data = entry.data
    return built


def _conf_by_upb(conf: ConfState) -> pb.ConfState:
    return pb.ConfState(
        voters=conf.voters,
        learners=conf.learners,
        voters_outgoing=conf.voters_outgoing,
        learners_next=conf.learners_next,
        auto_leave=conf.auto_leave,
    )


def _snapshot_by_upb(snapshot: Snapshot) -> pb.Snapshot:
    meta = pb.SnapshotMetadata(
        conf_state=_conf_by_upb(snapshot.meta.conf_state),
        index=snapshot.meta.index,
        term=snapshot.meta.term,
    )
    built = pb.Snapshot(metadata=meta)
    if snapshot.data:
        built.data = snapshot.data
    return built
