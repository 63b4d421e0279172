"""The stream encodings: bytes as etcd lays them out, any split, any truncation, every limit."""

from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyetcd.raft.codec import encode_entry, encode_message
from pyetcd.raft.types import Entry, EntryType, Message, MsgType
from pyetcd.server.peer.codec import (
    ENTRIES_MAX,
    LINK_HEARTBEAT_APP,
    LINK_HEARTBEAT_FRAME,
    AppDecoder,
    AppEncoder,
    CodecError,
    EntriesEncoder,
    MessageDecoder,
    MessageEncoder,
    encode_frame,
    is_link_heartbeat,
)

LOCAL, REMOTE = 1, 2


def app(term: int, index: int, entries: list[Entry], *, log_term: int = 0, commit: int = 0):
    return Message(
        MsgType.APP,
        to=LOCAL,
        from_=REMOTE,
        term=term,
        log_term=log_term or term,
        index=index,
        entries=entries,
        commit=commit,
    )


def test_the_worked_example_of_the_docstring():
    encoder = AppEncoder(EntriesEncoder())
    seven, eight, nine = (Entry(3, index, data=b"x") for index in (7, 8, 9))
    first = app(3, 6, [seven, eight], log_term=2)
    payload = encode_message(first)
    assert encoder.encode(first) == b"\x02" + pack(">Q", len(payload)) + payload
    entry = encode_entry(nine)
    assert encoder.encode(app(3, 8, [nine], commit=8)) == (
        b"\x01" + pack(">Q", 1) + pack(">Q", len(entry)) + entry + pack(">Q", 8)
    )
    assert encoder.encode(app(3, 5, []))[0] == 2  # a probe goes back: in full again
    assert encoder.encode(app(3, 5, []))[0] == 1  # and what goes on from it is short


def test_a_link_heartbeat_is_one_zero_byte_or_a_frame_without_ids():
    assert LINK_HEARTBEAT_APP == b"\0"
    assert AppDecoder(LOCAL, REMOTE).feed(LINK_HEARTBEAT_APP * 3) == []
    assert MessageDecoder().feed(LINK_HEARTBEAT_FRAME * 3) == []
    assert is_link_heartbeat(Message(MsgType.HEARTBEAT))
    assert not is_link_heartbeat(Message(MsgType.HEARTBEAT, to=LOCAL, from_=REMOTE))


def test_an_equal_run_of_entries_is_encoded_once():
    encoder = EntriesEncoder()
    entries = [Entry(1, 1, data=b"a"), Entry(1, 2, data=b"b")]
    assert encoder.encode(entries) is encoder.encode(list(entries))
    assert encoder.encode([]) == b""


entries = st.builds(
    Entry,
    term=st.integers(0, 2**64 - 1),
    index=st.integers(0, 2**64 - 1),
    type=st.sampled_from(EntryType),
    data=st.binary(max_size=40),
)
messages = st.builds(
    Message,
    type=st.sampled_from([t for t in MsgType if t is not MsgType.SNAP]),
    to=st.integers(1, 2**64 - 1),
    from_=st.integers(1, 2**64 - 1),
    term=st.integers(0, 2**64 - 1),
    log_term=st.integers(0, 2**64 - 1),
    index=st.integers(0, 2**64 - 1),
    entries=st.lists(entries, max_size=3),
    commit=st.integers(0, 2**64 - 1),
    reject=st.booleans(),
    reject_hint=st.integers(0, 2**64 - 1),
    context=st.binary(max_size=10),
)


def appends(script: list[tuple[bool, int, int, int]]) -> list[Message]:
    """A leader's stream: each step goes on from the last or probes elsewhere."""
    result: list[Message] = []
    term, index, log_term = 1, 0, 0
    for goes_on, jump, count, size in script:
        if not goes_on:
            term += jump % 3
            index, log_term = jump, term
        run = [Entry(term, index + n + 1, data=b"d" * size) for n in range(count)]
        result.append(app(term, index, run, log_term=log_term, commit=index))
        index += count
        log_term = term if run else log_term
    return result


scripts = st.lists(
    st.tuples(st.booleans(), st.integers(0, 1000), st.integers(0, 4), st.integers(0, 300)),
    max_size=12,
)


@given(st.lists(messages, max_size=8), st.integers(1, 50))
def test_messages_survive_any_split(sent: list[Message], step: int):
    encoder, decoder = MessageEncoder(), MessageDecoder()
    data = b"".join(encoder.encode(message) + encoder.link_heartbeat for message in sent)
    received = []
    for at in range(0, len(data), step):
        received += decoder.feed(data[at : at + step])
    assert received == sent


@given(scripts, st.integers(1, 50))
def test_appends_survive_any_split(script: list[tuple[bool, int, int, int]], step: int):
    sent = appends(script)
    encoder, decoder = AppEncoder(EntriesEncoder()), AppDecoder(LOCAL, REMOTE)
    data = b"".join(encoder.encode(message) + encoder.link_heartbeat for message in sent)
    received = []
    for at in range(0, len(data), step):
        received += decoder.feed(data[at : at + step])
    assert received == sent
    assert AppDecoder(LOCAL, REMOTE).feed(data) == sent


@given(st.binary(max_size=60), st.integers(1, 60))
def test_arbitrary_bytes_are_refused_or_understood_but_never_break(data: bytes, step: int):
    for decoder in (MessageDecoder(), AppDecoder(LOCAL, REMOTE)):
        try:
            for at in range(0, len(data), step):
                decoder.feed(data[at : at + step])
        except CodecError:
            pass


@pytest.mark.parametrize(
    "data",
    [
        b"\x03",  # no such kind
        b"\x02" + pack(">Q", 101),  # a frame above the limit
        b"\x02" + pack(">Q", 2**64 - 1),
        b"\x01" + pack(">Q", ENTRIES_MAX + 1),
        b"\x01" + pack(">QQ", 1, 101),  # one entry above the limit
        b"\x01" + pack(">QQ", 2, 60) + encode_entry(Entry(1, 1, data=b"." * 52)) + pack(">Q", 60),
        b"\x01" + pack(">QQ", 1, 3) + b"\xff\xff\xff",  # no entry
        b"\x02" + pack(">Q", 3) + b"\xff\xff\xff",  # no message
    ],
)
def test_a_bad_append_stream_is_refused(data: bytes):
    with pytest.raises(CodecError):
        AppDecoder(LOCAL, REMOTE, frame_bytes_max=100).feed(data)


@pytest.mark.parametrize(
    "data", [pack(">Q", 101), pack(">Q", 2**64 - 1), pack(">Q", 3) + b"\xff\xff\xff"]
)
def test_a_bad_message_stream_is_refused(data: bytes):
    with pytest.raises(CodecError):
        MessageDecoder(frame_bytes_max=100).feed(data)


def test_a_large_frame_in_small_pieces_costs_its_size_only():
    message = Message(MsgType.PROP, 1, 2, entries=[Entry(0, 0, data=bytes(2_000_000))])
    data, decoder = encode_frame(message), MessageDecoder()
    pieces = [decoder.feed(data[at : at + 100]) for at in range(0, len(data), 100)]
    assert pieces[-1] == [message]
    assert not any(pieces[:-1])
