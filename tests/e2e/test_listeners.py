"""Options of the listeners, asked of a real process: HTTP apart from gRPC, metrics on a port of
their own, and how many streams a connection may have."""

import http.client
import json
import socket
import ssl
from typing import Any

import grpc
import h2.connection
import pytest


def get(port: int, path: str, *, tls: bool = False, method: str = "GET") -> tuple[int, bytes]:
    if tls:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection: Any = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def put(endpoint: str) -> None:
    with grpc.insecure_channel(endpoint) as channel:
        channel.unary_unary("/etcdserverpb.KV/Put")(b"\x0a\x01k\x12\x01v", timeout=5)


def test_metrics_have_ports_of_their_own(machine: Any, free_ports: Any) -> None:
    plain, secure = free_ports(2)
    urls = f"http://127.0.0.1:{plain},https://127.0.0.1:{secure}"
    machine.single("pyetcd", f"--listen-metrics-urls={urls}", "--auto-tls")
    for port, tls in ((plain, False), (secure, True)):
        status, body = get(port, "/metrics", tls=tls)
        assert status == 200 and b"\netcd_server_has_leader 1\n" in body
        assert get(port, "/health", tls=tls) == (200, b'{"health":"true","reason":""}')
        assert get(port, "/readyz", tls=tls) == (200, b"ok\n")
        assert get(port, "/version", tls=tls)[0] == 404
        assert get(port, "/debug/vars", tls=tls)[0] == 404


def test_metrics_answer_before_there_is_a_leader(
    machine: Any, free_ports: Any, wait_until: Any
) -> None:
    """As etcd's: one of three starts alone, so clients are not served yet."""
    (metrics,) = free_ports(1)
    first, *others = machine.cluster(3, f"--listen-metrics-urls=http://127.0.0.1:{metrics}")
    for other in others:
        other.kill()
    wait_until(lambda: get(metrics, "/metrics")[0] == 200, "metrics")
    status, body = get(metrics, "/health")
    assert (status, json.loads(body)["health"]) in {(503, "false"), (200, "true")}
    first.kill()


def test_http_has_a_port_of_its_own(machine: Any, free_ports: Any) -> None:
    """Then the first port speaks gRPC alone, as from etcd 3.5.9 on."""
    grpc_port, http_port, peer = free_ports(3)
    argv = [
        machine.pyetcd,
        "server",
        f"--data-dir={machine.folder / 'split'}",
        f"--listen-client-urls=http://127.0.0.1:{grpc_port}",
        f"--listen-client-http-urls=http://127.0.0.1:{http_port}",
        f"--advertise-client-urls=http://127.0.0.1:{grpc_port}",
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-cluster=default=http://127.0.0.1:{peer}",
    ]
    machine.process(argv, name="split", client_port=http_port).start().wait_healthy()
    assert get(http_port, "/version")[0] == 200
    put(f"127.0.0.1:{grpc_port}")
    with pytest.raises((OSError, http.client.HTTPException)):
        get(grpc_port, "/version")
    with pytest.raises(grpc.RpcError) as caught:
        put(f"127.0.0.1:{http_port}")
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


def test_streams_of_a_connection(machine: Any) -> None:
    """What the server's SETTINGS say; that it is enforced, is in tests/wire/test_floods.py."""
    node = machine.single("pyetcd", "--max-concurrent-streams=77")
    client = h2.connection.H2Connection()
    client.initiate_connection()
    with socket.create_connection(("127.0.0.1", node.client_port), timeout=5) as connection:
        connection.sendall(client.data_to_send())
        while client.remote_settings.max_concurrent_streams != 77:
            received = connection.recv(4096)
            assert received, "closed without SETTINGS"
            client.receive_data(received)
