"""The proxy in front of several members."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from watch_stream import Stream

from pyetcd.proto import rpc_pb2 as rpc


def test_no_leader(machine: Any, front: Callable[..., Any]) -> None:
    """Ends the watches of clients that require one, and leaves the others; with its leader the
    cluster serves again through the same proxy."""
    nodes = machine.cluster(2, program="etcd")
    for node in nodes:
        node.wait_healthy()
    proxy = front("pyetcd", ",".join(node.endpoint for node in nodes))
    ctl = [machine.etcdctl, f"--endpoints={proxy.endpoint}", "--command-timeout=20s"]
    create = rpc.WatchCreateRequest(key=b"k")
    with grpc.insecure_channel(proxy.endpoint) as channel:
        picky = Stream(channel, create, metadata=(("hasleader", "true"),))
        patient = Stream(channel, create)
        assert picky.next().created and patient.next().created
        promote = channel.unary_unary("/etcdserverpb.Cluster/MemberPromote")
        with pytest.raises(grpc.RpcError) as refused:
            promote(rpc.MemberPromoteRequest(ID=1).SerializeToString(), timeout=20)
        assert refused.value.details() == "etcdserver: member not found"  # type: ignore[attr-defined]
        nodes[0].kill()
        with pytest.raises(grpc.RpcError) as caught:
            picky.next()
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
        assert caught.value.details() == "etcdserver: no leader"  # type: ignore[attr-defined]
        nodes[0].start().wait_healthy()
        machine.run(*ctl, "put", "k", "v")
        (event,) = patient.next().events
        assert event.kv.value == b"v"
        picky.close()
        patient.close()
