"""docs/ctl2.md is made of the command tree, and what it shows is what happens."""

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

from pyetcd.cli.ctl2.command import Command
from pyetcd.cli.ctl2.document import page
from pyetcd.cli.ctl2.tree import ROOT

PAGE = (Path(__file__).resolve().parents[2] / "docs/ctl2.md").read_text()


def test_the_page_is_current() -> None:
    """Made by `python -m pyetcd.cli.ctl2.document > docs/ctl2.md`."""
    assert page() == PAGE


def test_every_command_and_flag_is_there() -> None:
    def check(node: Command, path: str) -> None:
        for flag in node.flags:
            assert all(re.search(rf"`--?{name}`", PAGE) for name in flag.names)
        if node.run:
            assert f"\n### {path}\n" in PAGE
        for child in node.children:
            check(child, f"{path} {child.name}".strip())

    check(ROOT, "")


def test_the_transcript(machine: Any, wait_until: Any) -> None:
    node = machine.single("pyetcd", "--enable-v2")
    url = f"http://{node.endpoint}"

    def version_is_written() -> bool:
        with urllib.request.urlopen(f"{url}/version", timeout=5) as answer:
            return json.load(answer)["etcdcluster"] != "not_decided"

    wait_until(version_is_written, "the cluster's version")
    block = re.search(r"```console\n(.*?)```", PAGE, re.S)
    assert block is not None
    for step in block[1].split("$ ")[1:]:
        command, _, expected = step.partition("\n")
        if command != "export ETCDCTL_API=2":
            done = machine.run("sh", "-c", command, ETCDCTL_API="2", ETCDCTL_ENDPOINTS=url)
            assert (done.stdout, done.stderr) == (expected, ""), command
