"""Calls through a proxy whose cluster is not there."""

from collections.abc import Callable
from typing import Any

import grpc
from ports import free_port


def test_who_waits_and_what_is_said(
    machine: Any, front: Callable[..., Any], wait_until: Callable[..., None]
) -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    proxy = front("pyetcd", endpoint, "--max-send-bytes=10", waits=False)
    dialing = f"Error while dialing dial tcp {endpoint}: connect: connection refused"
    absent = f'last connection error: connection error: desc = "transport: {dialing}"'
    with grpc.insecure_channel(proxy.endpoint) as channel:

        def answer(method: str, request: bytes, timeout_s: float) -> tuple[str, str]:
            call = channel.unary_unary(f"/etcdserverpb.{method}")
            try:
                call(request, timeout=timeout_s, wait_for_ready=True)
            except grpc.RpcError as failure:
                assert isinstance(failure, grpc.Call)
                return failure.code().name, failure.details() or ""
            return "OK", ""

        assert answer("Maintenance/Status", b"", 20) == ("UNAVAILABLE", absent)  # at once
        assert answer("KV/Put", b"\n\x01k", 20) == ("UNAVAILABLE", absent)  # after a wait
        assert answer("KV/Put", b"\n\x01k", 0.1)[0] == "DEADLINE_EXCEEDED"
        large = "trying to send message larger than max (12 vs. 10)"
        assert answer("KV/Put", b"\n\x0akkkkkkkkkk", 20) == ("RESOURCE_EXHAUSTED", large)
    assert "Traceback" not in proxy.log
