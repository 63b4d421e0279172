"""Raft scenarios as text: a file of commands, each followed by what the cluster did.

    # A comment says what the scenario is about and what to look at.
    > campaign 1
    > run
    1 | PRE_CANDIDATE leader=0
    ...

A line that begins with "> " is a command; the lines below it, up to an empty line or the next
command, are its output. `RAFT_REWRITE=1 pytest tests/raft/test_transcripts.py` writes the output
anew: commit it only when every changed line is understood.

Commands (nodes are numbers, A->B is a direction):
    nodes 1,2,3 [learners=4] [add=1,2] [start=INDEX/TERM] [OPTION=VALUE ...]
                                   make nodes; options are fields of raft.core.Config
    unchecked                      no invariants: parts of the cluster are only told about
    option NODE OPTION=VALUE       for a node's next restart
    timeout NODE N                 its next randomised timeouts are election_ticks + N
    campaign NODE, elect NODE      elect: until the node leads, its first appends not sent yet
    tick NODE [N]                  N ticks; "tick NODE N run" runs the cluster after each
    propose NODE DATA ...          one batch; "size:N" is a payload of N bytes
    change NODE CHANGE ... [v2|implicit|explicit]   +4 add, -4 remove, l4 learner, leave
    read NODE CONTEXT, transfer NODE TO, unreachable NODE PEER, report NODE PEER ok|failed
    begin NODE, finish NODE        the two halves of a Ready; ready NODE is both
    deliver [A->B ...]             messages in the network, in order; all if none is named
    drop [A->B ...], copy A->B     lose messages; duplicate those that wait
    hold A->B, release A->B        keep messages aside and bring them back later
    cut NODE ..., cut A->B, heal   break connections; heal mends them all
    run [NODE ...]                 Readys and deliveries until nothing is left to do
    quiet COMMAND ...              the same without output
    crash NODE, restart NODE
    lose NODE INDEX                the disk forgets all after INDEX; lose-entries: not the commit
    forget-commit NODE             the stored commit index is 0
    refuse [NODE ...]              the application refuses changes of these nodes
    snapshot NODE, compact NODE INDEX, snapshots NODE ready|pending
    step NODE TYPE from=N [term=N index=N log_term=N commit=N reject entries=N/T,... context=X]
    misdeliver NODE TYPE to=N from=N term=N
    step-snapshot NODE from=N term=N snapshot=INDEX/TERM voters=N,... [learners=N,...]
    status NODE, log NODE, state, applied, reads NODE, network
"""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyetcd.raft.codec import decode_message, encode_message
from pyetcd.raft.describe import (
    describe_conf_state,
    describe_entry,
    describe_message,
    describe_ready,
)
from pyetcd.raft.types import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
    Entry,
    LogLost,
    Message,
    MsgType,
    ProposalDropped,
    RaftError,
    Ready,
    Snapshot,
    SnapshotMeta,
)

NO_LIMIT = 2**40
KINDS = {
    "+": ConfChangeType.ADD_NODE,
    "-": ConfChangeType.REMOVE_NODE,
    "l": ConfChangeType.ADD_LEARNER_NODE,
    "u": ConfChangeType.UPDATE_NODE,
}
SWITCHES = {"on": True, "off": False}


def replay(path: Path, cluster: Any) -> tuple[str, str]:
    """The file as it is and as it would be written now."""
    text = path.read_text()
    player = Player(cluster)
    lines: list[str] = []
    in_output = False
    for line in text.splitlines():
        if line.startswith("> "):
            lines.append(line)
            lines += player.play(line[2:])
            in_output = True
        elif not line or line.startswith("#"):
            lines.append(line)
            in_output = False
        else:
            assert in_output, f"{path.name}: output without a command: {line}"
    return text, "\n".join(lines) + "\n"


class Player:
    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        self.held: list[tuple[tuple[int, int], Message]] = []
        self.holding: set[tuple[int, int]] = set()
        self.out: list[str] = []

    def play(self, line: str) -> list[str]:
        self.out = []
        words = shlex.split(line)
        quiet = words[0] == "quiet"
        name, *args = words[1:] if quiet else words
        command: Callable[..., None] = getattr(self, "do_" + name.replace("-", "_"))
        try:
            command(*args)
        except RaftError as error:
            self.say(f"{type(error).__name__}: {error}")
        for member in self.cluster.up():
            self.cluster.verify(member.id)
        self.out += self.cluster.events
        self.cluster.events.clear()
        return [] if quiet else self.out

    def say(self, line: str) -> None:
        self.out.append(line)

    # Making a cluster.

    def do_nodes(self, voters: str, *words: str) -> None:
        plain, options = _options(words)
        assert not plain
        conf = ConfState(_ids(voters), _ids(options.pop("learners", "")))
        start = options.pop("start", None)
        added = _ids(options.pop("add", "")) or conf.voters + conf.learners
        snapshot = None
        if start:
            index, term = map(int, str(start).split("/"))
            snapshot = Snapshot(SnapshotMeta(index, term, conf))
        for node in added:
            self.cluster.add(node, conf, snapshot=snapshot, **options)

    def do_unchecked(self) -> None:
        self.cluster.check_each = False

    def do_option(self, node: str, *words: str) -> None:
        self.cluster.members[int(node)].options |= _options(words)[1]

    def do_timeout(self, node: str, value: str) -> None:
        self.cluster.members[int(node)].rng.value = int(value)

    # Inputs.

    def do_campaign(self, node: str) -> None:
        self.cluster[int(node)].campaign()

    def do_elect(self, node: str) -> None:
        me = int(node)
        self.cluster[me].campaign()
        others = [f"{me}->{other}" for other in self.cluster.members]
        answers = [f"{other}->{me}" for other in self.cluster.members]
        for _ in range(4):
            if self.cluster[me].is_leader:
                return
            if self.cluster[me].has_ready():
                self.do_ready(node)
            self.do_deliver(*others)
            for member in self.cluster.up():
                if member.id != me and member.node.has_ready():
                    self.do_ready(str(member.id))
            self.do_deliver(*answers)

    def do_tick(self, node: str, count: str = "1", run: str = "") -> None:
        for _ in range(int(count)):
            self.cluster.tick(int(node))
            if run:
                self.do_run()

    def do_propose(self, node: str, *datas: str) -> None:
        self.cluster[int(node)].propose([_payload(data) for data in datas])

    def do_change(self, node: str, *words: str) -> None:
        transitions = {"v2": "AUTO", "implicit": "JOINT_IMPLICIT", "explicit": "JOINT_EXPLICIT"}
        chosen = [transitions[word] for word in words if word in transitions]
        singles = [
            ConfChangeSingle(KINDS[word[0]], int(word[1:]))
            for word in words
            if word not in transitions and word != "leave"
        ]
        if chosen or len(singles) != 1:
            transition = ConfChangeTransition[chosen[0] if chosen else "AUTO"]
            change: Any = ConfChangeV2(tuple(singles), transition)
        else:
            change = ConfChange(singles[0].type, singles[0].node_id)
        self.cluster[int(node)].propose_conf_change(change)

    def do_read(self, node: str, context: str) -> None:
        self.cluster[int(node)].read_index(context.encode())

    def do_transfer(self, node: str, to: str) -> None:
        self.cluster[int(node)].transfer_leader(int(to))

    def do_unreachable(self, node: str, peer: str) -> None:
        self.cluster[int(node)].report_unreachable(int(peer))

    def do_report(self, node: str, peer: str, result: str) -> None:
        self.cluster[int(node)].report_snapshot(int(peer), ok=result == "ok")

    def do_step(self, node: str, kind: str, *words: str) -> None:
        """An invented message, as a faulty or a foreign member might send it."""
        plain, options = _options(words)
        message = Message(MsgType[kind], int(node), int(options["from"]))
        message.reject = "reject" in plain
        message.context = str(options.get("context", "")).encode()
        for name in ("term", "index", "log_term", "commit", "reject_hint"):
            setattr(message, name, int(options.get(name, 0)))
        entries = [pair.split("/") for pair in str(options.get("entries", "")).split(",") if pair]
        message.entries = [Entry(int(term), int(index)) for index, term in entries]
        self.cluster.members[int(node)].node.step(message)
        self.cluster.verify(int(node))

    def do_misdeliver(self, node: str, kind: str, *words: str) -> None:
        _, options = _options(words)
        message = Message(MsgType[kind], options["to"], options["from"], options["term"])
        self.cluster.members[int(node)].node.step(message)

    def do_step_snapshot(self, node: str, *words: str) -> None:
        _, options = _options(words)
        index, term = map(int, str(options["snapshot"]).split("/"))
        conf = ConfState(_ids(str(options["voters"])), _ids(str(options.get("learners", ""))))
        data = b"\n".join(b"s%d" % n for n in range(1, index + 1))
        snapshot = Snapshot(SnapshotMeta(index, term, conf), data)
        message = Message(MsgType.SNAP, int(node), int(options["from"]), int(options["term"]))
        message.snapshot = snapshot
        self.cluster.members[int(node)].node.step(message)

    # Readys.

    def do_begin(self, node: str) -> None:
        self._show(int(node), self.cluster.begin(int(node)))

    def do_finish(self, node: str) -> None:
        self.cluster.finish(int(node))

    def do_ready(self, node: str) -> None:
        self.do_begin(node)
        self.do_finish(node)

    def _show(self, node: int, ready: Ready) -> None:
        for line in describe_ready(ready, _payload_text):
            self.say(f"{node} | {line}")

    # The network.

    def do_deliver(self, *routes: str) -> None:
        self._keep_aside()
        chosen = [message for message in self.cluster.network if _on(message, routes)]
        self.cluster.network = [m for m in self.cluster.network if not _on(m, routes)]
        self._deliver(chosen)

    def _deliver(self, messages: list[Message]) -> None:
        for message in messages:
            # Through bytes, as a real network would bring it.
            complaint = self.cluster.deliver(decode_message(encode_message(message)))
            if complaint:
                self.say(f"{message.to} <- {describe_message(message, _payload_text)}: {complaint}")

    def do_drop(self, *routes: str) -> None:
        self.cluster.network = [m for m in self.cluster.network if not _on(m, routes)]

    def do_copy(self, route: str) -> None:
        self.cluster.network += [m for m in self.cluster.network if _on(m, (route,))]

    def do_hold(self, route: str) -> None:
        self.held += [(_route(route), m) for m in self.cluster.network if _on(m, (route,))]
        self.do_drop(route)
        self.holding.add(_route(route))

    def do_release(self, route: str) -> None:
        self.holding.discard(_route(route))
        self.cluster.network += [message for key, message in self.held if key == _route(route)]
        self.held = [(key, message) for key, message in self.held if key != _route(route)]

    def _keep_aside(self) -> None:
        for key in self.holding:
            route = f"{key[0]}->{key[1]}"
            self.held += [(key, m) for m in self.cluster.network if _on(m, (route,))]
            self.do_drop(route)

    def do_cut(self, *words: str) -> None:
        for word in words:
            if "->" in word:
                self.cluster.cut.add(_route(word))
                self.do_drop(word)
            else:
                self.cluster.isolate(int(word))

    def do_heal(self) -> None:
        self.cluster.heal()

    def do_run(self, *nodes: str) -> None:
        wanted = {int(node) for node in nodes} or set(self.cluster.members)
        for _ in range(1000):
            busy = False
            for member in self.cluster.up():
                if member.id not in wanted:
                    continue
                if member.outstanding is not None:
                    busy = True
                    self.cluster.finish(member.id)
                while member.node.has_ready():
                    busy = True
                    self.do_ready(str(member.id))
            self._keep_aside()
            arriving = [m for m in self.cluster.network if m.to in wanted]
            self.cluster.network = [m for m in self.cluster.network if m.to not in wanted]
            self._deliver(arriving)
            if not busy and not arriving:
                return
        raise AssertionError("the cluster does not come to rest")

    # Faults.

    def do_crash(self, node: str) -> None:
        self.cluster.crash(int(node))

    def do_restart(self, node: str) -> None:
        if self.cluster.members[int(node)].up:
            self.cluster.crash(int(node))
        self.cluster.restart(int(node))

    def do_lose(self, node: str, index: str) -> None:
        member = self.cluster.members[int(node)]
        member.trusted = False
        keep = int(index) - member.storage._offset
        member.storage._entries = member.storage._entries[:keep]
        hard = member.storage.hard_state
        member.storage.hard_state = type(hard)(hard.term, hard.vote, min(hard.commit, int(index)))
        self.cluster.verify(int(node))

    def do_lose_entries(self, node: str, index: str) -> None:
        """Unlike lose, the commit index survives."""
        member = self.cluster.members[int(node)]
        member.trusted = False
        member.storage._entries = member.storage._entries[: int(index) - member.storage._offset]

    def do_forget_commit(self, node: str) -> None:
        """The commit index was never stored."""
        storage = self.cluster.members[int(node)].storage
        hard = storage.hard_state
        storage.hard_state = type(hard)(hard.term, hard.vote, 0)

    def do_refuse(self, *nodes: str) -> None:
        refused = {int(node) for node in nodes}
        self.cluster.refuse_change = lambda change: change.node_id in refused

    def do_snapshot(self, node: str) -> None:
        self.cluster.snapshot(int(node))

    def do_compact(self, node: str, index: str) -> None:
        self.cluster.members[int(node)].storage.compact(int(index))

    def do_snapshots(self, node: str, word: str) -> None:
        self.cluster.members[int(node)].storage.snapshot_ready = word == "ready"

    # Looking.

    def do_status(self, node: str) -> None:
        for peer, view in self.cluster[int(node)].status().progress.items():
            words = [view.state.name, f"match={view.match}", f"next={view.next}"]
            words += ["learner"] * view.is_learner + ["paused"] * view.paused
            words += ["inactive"] * (not view.recent_active)
            if view.pending_snapshot:
                words.append(f"snapshot={view.pending_snapshot}")
            if view.inflight:
                words.append(f"inflight={view.inflight} bytes={view.inflight_bytes}")
            self.say(f"{peer}: {' '.join(words)}")

    def do_log(self, node: str) -> None:
        log = self.cluster[int(node)].raft.log
        entries = log.slice(log.first_index, log.last_index + 1, NO_LIMIT)
        text = ", ".join(describe_entry(entry, _payload_text) for entry in entries)
        self.say(f"first={log.first_index} last={log.last_index} commit={log.committed}: {text}")

    def do_state(self) -> None:
        for member in self.cluster.members.values():
            node = member.node
            if not member.up:
                self.say(f"{member.id}: down")
                continue
            self.say(
                f"{member.id}: {node.role.name} term={node.term} vote={node.raft.vote} "
                f"leader={node.leader} commit={node.commit} applied={node.applied} "
                f"last={node.last_index} {describe_conf_state(member.conf_state)}"
            )

    def do_applied(self) -> None:
        for member in self.cluster.members.values():
            text = " ".join(_payload_text(data) for data in member.applied)
            self.say(f"{member.id}: {text}")

    def do_reads(self, node: str) -> None:
        for state in self.cluster.members[int(node)].reads:
            self.say(f"{state.context.decode()} at {state.index}")

    def do_network(self) -> None:
        for message in self.cluster.network:
            self.say(describe_message(message, _payload_text))


def _payload(word: str) -> bytes:
    return b"x" * int(word[5:]) if word.startswith("size:") else word.encode()


def _payload_text(data: bytes) -> str:
    return data.decode() if len(data) < 20 else f"({len(data)} bytes)"


def _ids(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(",") if word)


def _options(words: tuple[str, ...]) -> tuple[list[str], dict[str, Any]]:
    plain = [word for word in words if "=" not in word]
    options: dict[str, Any] = {}
    for word in words:
        if "=" in word:
            name, _, value = word.partition("=")
            number = int(value) if value.isdigit() and name not in ("add", "learners") else value
            options[name] = SWITCHES.get(value, number)
    return plain, options


def _route(text: str) -> tuple[int, int]:
    sender, _, receiver = text.partition("->")
    return int(sender), int(receiver)


def _on(message: Message, routes: tuple[str, ...]) -> bool:
    """Whether a message is on one of the routes: A->B, A->B:TYPE, or any if none is named."""
    for route in routes:
        path, _, kind = route.partition(":")
        if (message.from_, message.to) == _route(path) and kind in ("", message.type.name):
            return True
    return not routes


__all__ = ["LogLost", "Player", "ProposalDropped", "replay"]
