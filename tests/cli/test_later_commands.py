"""What etcdctl learned after 3.5: `pyetcd ctl` against pyetcd. And the page that lists it all."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyetcd.cli.command import Command, usage
from pyetcd.cli.completion import script
from pyetcd.cli.ctl.document import page
from pyetcd.cli.ctl.run import run
from pyetcd.cli.ctl.tree import ROOT

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, machine_type: Any) -> Iterator[str]:
    machine = machine_type(tmp_path_factory.mktemp("later"))
    try:
        yield machine.single("pyetcd").endpoint
    finally:
        machine.close()


@pytest.fixture
def ctl(endpoint):
    def call(*argv: str, stdin: str = "") -> tuple[str, str, int]:
        out, err, code = run([f"--endpoints={endpoint}", *argv], {}, stdin.encode())
        return out.decode(), err.decode(), code

    assert call("del", "", "--prefix")[2] == 0
    return call


def revision(ctl) -> int:
    return int(json.loads(ctl("get", "x", "-w", "json")[0])["header"]["revision"])


def test_filters_by_revision(ctl):
    before = revision(ctl)
    for key in ("a", "b", "c", "a"):
        ctl("put", key, "v")
    first, last = before + 1, before + 4

    def keys(*flags: str) -> list[str]:
        out, err, code = ctl("get", "", "--prefix", "--keys-only", *flags)
        assert (err, code) == ("", 0)
        return out.split()

    assert keys(f"--min-create-rev={first + 1}") == ["b", "c"]
    assert keys(f"--max-create-rev={first}") == ["a"]
    assert keys(f"--min-mod-rev={last}") == ["a"]
    assert keys(f"--max-mod-rev={last - 1}") == ["b", "c"]
    assert keys(f"--min-mod-rev={first + 2}", f"--max-create-rev={first}") == ["a"]
    assert ctl("get", "a", "--min-mod-rev=x")[2] == 1


@pytest.mark.parametrize("format", ("simple", "json", "fields"))
def test_stream(ctl, format):
    for i in range(30):
        ctl("put", f"k{i:02}", "v" * 10)
    for flags in (("--prefix",), ("--prefix", "--limit=7"), ("--from-key",)):
        expected = ctl("get", "k", *flags, "-w", format)
        assert ctl("get", "k", *flags, "--stream", "-w", format) == expected
    assert ctl("get", "k", "--stream", "--rev=1000000000")[2] == 1


def test_stream_from_who_has_none(judge):
    out, err, code = run([f"--endpoints={judge.endpoint}", "get", "nobody", "--stream"])
    if judge.kind == "pyetcd":
        assert (out, err, code) == (b"", b"", 0)
        return
    assert (out, code) == (b"", 1)
    assert b"code = Unimplemented" in err and b"Traceback" not in err


def test_delete_of_a_range(ctl):
    for key in ("a", "b", "c", "d"):
        ctl("put", key, "v")
    assert ctl("del", "a", "c", "--range") == ("2\n", "", 0)
    assert ctl("del", "c", "z") == ("2\n", "", 0)


def test_downgrade(ctl):
    validated = ctl("downgrade", "validate", "3.4")
    assert validated[0].startswith("Downgrade validate success, cluster version 3.")
    assert ctl("downgrade", "validate", "3.3")[2] == 1
    assert ctl("downgrade", "validate", "nonsense")[2] == 1
    assert ctl("downgrade", "cancel")[1].endswith("no inflight downgrade job\n")
    assert ctl("downgrade", "enable", "3.4")[0].startswith("Downgrade enable success")
    shown = json.loads(ctl("downgrade", "cancel", "-w", "json")[0])
    assert shown["version"].startswith("3.")
    assert ctl("downgrade", "enable") == ("", "Error: TARGET_VERSION not provided\n", 128)
    assert ctl("downgrade", "validate", "") == ("", "Error: target version not provided\n", 128)
    assert ctl("downgrade", "validate", "3", "4") == ("", "Error: too many arguments\n", 128)
    assert ctl("downgrade")[2] == 0


def test_single_quotes_in_a_transaction(ctl):
    out, err, code = ctl("txn", stdin="\nput 'k 1' 'v 1'\nget 'k 1'\n\n\n")
    assert (out, err, code) == ("SUCCESS\n\nOK\n\nk 1\nv 1\n", "", 0)


def test_options(ctl):
    out, err, code = ctl("options")
    assert (err, code) == ("", 0)
    for flag in ROOT.inherited:
        assert f"--{flag.name}[" in out or f"--{flag.name}=" in out


def test_what_is_new_takes_no_old_prefix():
    """`comp` was compaction before there was completion."""
    assert run(["comp"])[1] == b"Error: compaction command needs 1 argument\n"
    assert run(["downg", "enable"])[1] == b"Error: TARGET_VERSION not provided\n"


@pytest.mark.parametrize("shell", ("bash", "zsh", "fish"))
def test_completion_scripts(shell):
    out, err, code = run(["completion", shell])
    assert (out.decode(), err, code) == (script(ROOT, shell), b"", 0)


def test_completion_of_no_shell():
    assert run(["completion"])[2] == 128
    assert run(["completion", "tcsh"])[2] == 128


TYPED = (
    ("etcdctl ", "get"),
    ("etcdctl mem", "member"),
    ("etcdctl member ", "promote"),
    ("etcdctl member add --pe", "--peer-urls"),
    ("etcdctl --hex get --pre", "--prefix"),
    ("etcdctl get k --min-", "--min-mod-rev"),
    ("etcdctl downgrade ", "validate"),
    ("etcdctl --endp", "--endpoints"),
)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash to complete in")
@pytest.mark.parametrize(("typed", "offered"), TYPED)
def test_completion_in_bash(tmp_path: Path, typed: str, offered: str):
    """The function that bash calls, with the words that it gives."""
    source = tmp_path / "etcdctl.bash"
    source.write_text(script(ROOT, "bash"))
    words = typed.split(" ")
    quoted = " ".join(f"'{word}'" for word in words)
    program = (
        f"source {source}\n"
        f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}\n"
        "complete -p etcdctl >&2\n"
        "__etcdctl_complete\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", program], capture_output=True, text=True, check=True
    )
    assert offered in done.stdout.split()
    assert "-F __etcdctl_complete etcdctl" in done.stderr


def _all(command: Command) -> Iterator[Command]:
    for child in command.children:
        yield child
        yield from _all(child)


def test_page_is_current():
    """Made by `python -m pyetcd.cli.ctl.document > docs/ctl.md`."""
    assert (DOCS / "ctl.md").read_text() == page()


def test_every_command_and_flag_has_words():
    for command in _all(ROOT):
        assert command.short, command.path()
        assert bool(command.run) != bool(command.children), command.path()
        shown = usage(command)
        for name, flag in command.all_flags().items():
            assert flag.usage, f"{command.path()} --{name}"
            assert f"--{name}" in shown
            flag.parse(flag.default)


def test_help_of_each_command_is_reached():
    for command in _all(ROOT):
        words = command.path().split(" ")[1:]
        assert run([*words, "--help"]) == (usage(command).encode(), b"", 0)
        assert run(["help", *words]) == (usage(command).encode(), b"", 0)
