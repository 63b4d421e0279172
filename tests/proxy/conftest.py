"""Proxies of etcd and of pyetcd in front of servers of either kind."""

from collections.abc import Callable
from typing import Any

import pytest
from ports import free_port

Front = Callable[..., Any]


@pytest.fixture
def front(machine: Any, wait_until: Callable[..., None]) -> Front:
    """Starts a proxy of `program` in front of a node and waits until it answers."""

    def start(program: str, node: Any, *flags: str, waits: bool = True, name: str = "") -> Any:
        port = free_port()
        head = [machine.etcd, "grpc-proxy"] if program == "etcd" else [machine.pyetcd, "proxy"]
        endpoint = node if isinstance(node, str) else node.endpoint
        argv = [
            *head,
            "start",
            f"--listen-addr=127.0.0.1:{port}",
            f"--advertise-client-url=127.0.0.1:{port}",
            f"--endpoints={endpoint}",
            *flags,
        ]
        name = name or f"proxy-{program}-{port}"
        made = machine.process(argv, name=name, client_port=port).start()
        if waits:
            wait_until(lambda: answers(machine, made), name)
        return made

    return start


def answers(machine: Any, process: Any) -> bool:
    assert not process.has_ended(), process.log
    command = [machine.etcdctl, f"--endpoints={process.endpoint}", "--command-timeout=2s"]
    return not machine.run(*command, "get", "ready", check=False).returncode
