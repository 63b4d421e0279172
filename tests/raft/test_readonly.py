"""readonly.py: rounds, and what a response proves."""

from hypothesis import given
from hypothesis import strategies as st

from pyetcd.raft.confchange import Configuration
from pyetcd.raft.readonly import ReadOnly
from pyetcd.raft.types import Entry, Message, MsgType

CONF = Configuration(frozenset({1, 2, 3}))


def ask(name: str) -> Message:
    return Message(MsgType.READ_INDEX, entries=(Entry(0, 0, data=name.encode()),))


def names(confirmed: list[tuple[Message, int]]) -> list[tuple[str, int]]:
    return [(message.entries[0].data.decode(), index) for message, index in confirmed]


def test_the_example_of_the_docstring() -> None:
    reads = ReadOnly(100, last_number=6)
    reads.add(ask("a"), 40)
    reads.add(ask("b"), 41)
    context = reads.start_round(1)
    assert context == (7).to_bytes(8, "little")
    reads.add(ask("c"), 42)
    assert names(reads.acknowledge(2, context, CONF)) == [("a", 40), ("b", 41)]
    assert reads.acknowledge(3, context, CONF) == []
    assert reads.has_open_round and len(reads) == 1


def test_a_later_response_confirms_earlier_rounds() -> None:
    reads = ReadOnly(100)
    reads.add(ask("a"), 1)
    reads.start_round(1)
    reads.add(ask("b"), 2)
    context = reads.start_round(1)
    assert names(reads.acknowledge(3, context, CONF)) == [("a", 1), ("b", 2)]
    assert reads.start_round(1) == b""


def test_both_majorities_of_a_joint_configuration_must_answer() -> None:
    joint = Configuration(frozenset({1, 4, 5}), frozenset({1, 2, 3}))
    reads = ReadOnly(100)
    reads.add(ask("a"), 1)
    context = reads.start_round(1)
    assert reads.acknowledge(2, context, joint) == []
    assert reads.acknowledge(9, context, joint) == []
    assert names(reads.acknowledge(4, context, joint)) == [("a", 1)]


def test_what_was_never_sent_is_never_confirmed() -> None:
    reads = ReadOnly(100)
    reads.add(ask("a"), 1)
    reads.start_round(1)
    for context in (b"", b"x", b"client-context", (2).to_bytes(8, "little"), bytes(8)):
        assert reads.acknowledge(2, context, CONF) == []


@given(st.lists(st.sampled_from(["ask", "send", "ack2", "ack3"]), max_size=40))
def test_a_read_is_confirmed_by_a_heartbeat_sent_after_it(steps: list[str]) -> None:
    """Dumb twin: remember for each read the last heartbeat before it."""
    reads, sent, asked, done = ReadOnly(1000), [b""], dict[str, int](), set[str]()
    for number, step in enumerate(steps):
        if step == "ask":
            asked[f"r{number}"] = len(sent)
            reads.add(ask(f"r{number}"), number)
        elif step == "send":
            sent.append(reads.start_round(1))
        else:
            for name, _ in names(reads.acknowledge(int(step[3]), sent[-1], CONF)):
                assert name not in done and asked[name] < len(sent)
                done.add(name)
    sent.append(reads.start_round(1))
    done |= {name for name, _ in names(reads.acknowledge(2, sent[-1], CONF))}
    assert done == set(asked) and len(reads) == 0


def test_the_number_of_reads_is_bounded() -> None:
    reads = ReadOnly(2)
    for name in "abc":
        reads.add(ask(name), 1)
        reads.defer(ask(name))
    assert len(reads) == 2
