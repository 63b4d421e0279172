"""lock, elect and make-mirror as real processes: etcdctl and `pyetcd ctl` queue up behind each
other and say the same, on real etcd and on pyetcd."""

import re
import signal
import subprocess
from typing import Any

import pytest

PROGRAMS = ("etcdctl", "ctl")


def blank(text: str) -> str:
    """Lease ids, and what of the server's numbers depends on earlier rows."""
    text = re.sub(r"/[0-9a-f]{13,16}", "/LEASE", text)
    text = re.sub(r'"key":"[^"]*"', '"key":"LEASE"', text)
    return re.sub(
        r'("?[A-Za-z_]*(?:[Rr]evision|[Ii][Dd]|[Ll]ease|raft_term)"? ?:) ?\d+', r"\1N", text
    )


class Run:
    """A command line of one of the programs, in a process of its own."""

    def __init__(self, machine: Any, program: str, node: Any, *argv: str) -> None:
        head = [machine.etcdctl] if program == "etcdctl" else [machine.pyetcd, "ctl"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [*head, f"--endpoints={node.endpoint}", *argv], stdout=pipe, stderr=pipe, text=True
        )
        self.seen = ""

    def line(self) -> str:
        assert self.process.stdout is not None
        read = self.process.stdout.readline()
        self.seen += read
        return read

    def end(self, number: int = 0) -> tuple[str, str, int]:
        if number:
            self.process.send_signal(number)
        try:
            # Not communicate(): that misses what readline() has read ahead. Both are short.
            assert self.process.stdout is not None and self.process.stderr is not None
            self.process.wait(timeout=30)
            out, err = self.process.stdout.read(), self.process.stderr.read()
        finally:
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdout, self.process.stderr):
                if stream is not None:
                    stream.close()
        return blank(self.seen + out), blank(err), self.process.returncode


@pytest.fixture(scope="module", params=["etcd", "pyetcd"])
def place(request: pytest.FixtureRequest, tmp_path_factory: Any, machine_type: Any) -> Any:
    machine = machine_type(tmp_path_factory.mktemp("sessions"))
    yield machine, machine.single(request.param)
    machine.close()


ENDS = """
lock
lock l true
lock l -- sh -c 'exit 3'
lock l /none
lock l none-such
lock l -- sh -c 'kill -9 $$'
lock l -- sh -c 'echo out; echo err >&2; cat'
lock l --ttl=5 -- sh -c 'env | grep ETCD_LOCK_KEY'
elect
elect a
elect a b c
elect -l a b
make-mirror
make-mirror a b
make-mirror 127.0.0.1:1 --dest-prefix=a --no-dest-prefix
""".strip().splitlines()


def test_what_ends_by_itself(place: Any) -> None:
    import shlex

    machine, node = place
    for line in ENDS:
        argv = shlex.split(line)
        got = [Run(machine, program, node, *argv).end() for program in PROGRAMS]
        assert got[1] == got[0], line


@pytest.mark.parametrize("format", ["simple", "json", "fields"])
def test_one_holds_and_one_waits(place: Any, format: str) -> None:
    machine, node = place
    for argv in (["lock", f"q-{format}"], ["elect", f"q-{format}", "me"]):
        ends = []
        for holder, waiter in (PROGRAMS, PROGRAMS[::-1]):
            first = Run(machine, holder, node, "-w", format, *argv)
            assert first.line()
            second = Run(machine, waiter, node, "-w", format, *argv)
            ends.append(first.end(signal.SIGINT))
            assert second.line()
            ends.append(second.end(signal.SIGTERM))
        assert ends[0][2] == 0
        assert all(end == ends[0] for end in ends), ends


def test_who_waits_may_give_up(place: Any) -> None:
    machine, node = place
    for argv in (["lock", "g"], ["elect", "g", "me"]):
        holder = Run(machine, "etcdctl", node, *argv)
        assert holder.line()
        ends = []
        for program in PROGRAMS:
            waiter = Run(machine, program, node, *argv)
            keys = ["get", "g/", "--prefix", "--keys-only"]
            while Run(machine, "etcdctl", node, *keys).end()[0].count("LEASE") < 2:
                pass
            # It has its key; its watch, and the handler that stops it, come at once.
            ends.append(waiter.end(signal.SIGINT)[1:])
        assert ends[1] == ends[0] == ("Error: context canceled\n", 1)
        holder.end(signal.SIGINT)


def test_an_observer_sees_each_leader(place: Any) -> None:
    machine, node = place
    seen = []
    for program in PROGRAMS:
        observer = Run(machine, program, node, "elect", "-l", f"o-{program}")
        for name in ("one", "two"):
            leader = Run(machine, PROGRAMS[name == "two"], node, "elect", f"o-{program}", name)
            assert observer.line().startswith(f"o-{program}/")
            assert observer.line() == f"{name}\n"
            assert leader.line()  # only now it would not leave its key behind
            if name == "two":  # while it watches: a call that is left by ^C is logged
                out, err, code = observer.end(signal.SIGINT)
            leader.end(signal.SIGINT)
        seen.append((out.replace(program, "X"), err, code))
    assert seen[1] == seen[0]
    assert seen[0][2] == 0


def test_a_lost_lease_ends_the_holder(place: Any) -> None:
    machine, node = place
    ends = []
    for program in PROGRAMS:
        holder = Run(machine, program, node, "lock", "lost", "--ttl=2")
        lease = holder.line().split("/")[1].strip()
        Run(machine, "etcdctl", node, "lease", "revoke", lease).end()
        ends.append(holder.end())
    assert ends[1] == ends[0]
    assert ends[0][1:] == ("Error: session expired\n", 1)


@pytest.mark.parametrize("program", PROGRAMS)
def test_mirror(place: Any, machine: Any, wait_until: Any, program: str) -> None:
    source_machine, source = place
    other = "pyetcd" if "etcd-" in source.name and "pyetcd" not in source.name else "etcd"
    target = machine.single(other)

    def put(key: str, value: str) -> None:
        Run(machine, "etcdctl", source, "put", key, value).end()

    def target_has() -> str:
        return Run(machine, "etcdctl", target, "get", "", "--prefix").end()[0]

    put("m/old", "1")
    put("m/gone", "1")
    put("n/else", "1")
    flags = ("--prefix=m/", "--dest-prefix=copy/", target.endpoint)
    mirror = Run(source_machine, program, source, "make-mirror", *flags)
    try:
        wait_until(lambda: "copy/old" in target_has() and "copy/gone" in target_has(), "base")
        put("m/new", "2")
        Run(machine, "etcdctl", source, "del", "m/gone").end()
        wanted = "copy/new\n2\ncopy/old\n1\n"
        wait_until(lambda: target_has() == wanted, "the changes")
    finally:
        mirror.end(signal.SIGKILL)
