"""--v2-deprecation beside real etcd 3.5.1: in which stage the v2 store may hold keys."""

import re
import signal
import urllib.request
from typing import Any

import pytest

STAGES = ("write-only", "write-only-drop-data", "gone")


def refusal(node: Any, *flags: str) -> str:
    """Why a node that has ended does not start again with these flags."""
    seen = len(node.log)
    node.argv = [flag for flag in node.argv if not flag.startswith("--v2-dep")] + list(flags)
    assert node.start().wait() == 1
    found = re.findall(
        r'[^":\n]*--v2-deprecation=[a-z-]+(?: are[a-z ]*)?(?=[";\n])', node.log[seen:]
    )
    assert found, node.log[seen:]
    return str(found[-1]).strip()


def test_not_while_it_is_served(machine: Any) -> None:
    for program in ("etcd", "pyetcd"):
        node = machine.single(program, "--enable-v2")
        node.kill()
        text = "--enable-v2 and --v2-deprecation=write-only are mutually exclusive"
        assert refusal(node, "--v2-deprecation=write-only") == text


def test_not_while_it_holds_keys(machine: Any) -> None:
    for program in ("etcd", "pyetcd"):
        # etcd looks only when it starts from a snapshot.
        node = machine.single(program, "--enable-v2", "--snapshot-count=5")
        for number in range(12):
            put(node, f"k{number}")
        if program == "etcd":
            assert list((machine.folder / node.name / "member/snap").glob("*.snap"))
        node.signal(signal.SIGTERM)
        node.wait()
        node.argv.remove("--enable-v2")
        for stage in STAGES:
            text = (
                f"detected disallowed custom content in v2store for stage --v2-deprecation={stage}"
            )
            assert refusal(node, f"--v2-deprecation={stage}") == text


def put(node: Any, key: str) -> None:
    url = f"http://{node.endpoint}/v2/keys/{key}"
    request = urllib.request.Request(url, b"value=1", method="PUT")
    urllib.request.urlopen(request, timeout=10).close()


@pytest.mark.parametrize("stage", STAGES)
def test_a_member_without_v2_keys_starts(machine: Any, stage: str) -> None:
    node = machine.single("pyetcd", "--enable-v2")
    node.kill()
    node.argv.remove("--enable-v2")
    node.argv.append(f"--v2-deprecation={stage}")
    node.start().wait_healthy()
