"""What the README shows is what happens: its commands are run, its output is compared."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```console\n(.*?)```", README, re.S)
YAML = re.findall(r"```yaml\n(.*?)```", README, re.S)


def steps(block: str) -> list[tuple[str, str]]:
    """(command, expected output) of a console block; a here-document belongs to its command."""
    found: list[tuple[str, str]] = []
    lines = iter(block.splitlines(keepends=True))
    for line in lines:
        if line.startswith("$ "):
            command = line[2:]
            if "<<'.'" in command:
                for more in lines:
                    command += more
                    if more == ".\n":
                        break
            found.append((command, ""))
        else:
            found[-1] = (found[-1][0], found[-1][1] + line)
    return found


def play(machine, block, **env):
    for command, expected in steps(block):
        done = machine.run("/bin/sh", "-c", command, **env)
        assert done.stdout == expected, (command, done.stderr)


def test_the_first_transcript(machine):
    node = machine.single()
    play(machine, BLOCKS[0], ETCDCTL_ENDPOINTS=node.endpoint)


def test_three_nodes(machine, free_ports):
    ports = dict(
        zip(["12379", "22379", "32379", "12380", "22380", "32380"], free_ports(6), strict=True)
    )

    def moved(text: str) -> str:
        return re.sub(r"[123]23(?:79|80)", lambda found: str(ports[found[0]]), text)

    nodes = []
    for number in "123":
        text = YAML[0].replace("name: etcd1", f"name: etcd{number}")
        text = text.replace("./etcd1/", f"./etcd{number}/")
        own, cluster = text.split("initial-cluster:", 1)
        own = own.replace("12379", f"{number}2379").replace("12380", f"{number}2380")
        name = f"etcd{number}_conf.yml"
        (machine.folder / name).write_text(moved(f"{own}initial-cluster:{cluster}"))
        argv = [machine.pyetcd, "server", f"--config-file={name}"]
        port = ports[f"{number}2379"]
        nodes.append(machine.process(argv, name=f"etcd{number}", client_port=port).start())
    for node in nodes:
        node.wait_healthy()
    play(machine, moved(BLOCKS[1]))


@pytest.mark.parametrize("path", re.findall(r"`((?:server|store|raft|tests)/[\w/]+\.py)`", README))
def test_named_files_exist(path):
    assert (ROOT / path).is_file()


def test_named_documents_exist():
    for target in re.findall(r"\]\(([\w/.]+)\)", README):
        assert (ROOT / target).is_file(), target
