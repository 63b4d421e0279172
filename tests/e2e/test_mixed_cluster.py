"""Members of pyetcd and of the real etcd in one cluster: the same log, the same hashes."""

import grpc

from pyetcd.proto import rpc_pb2 as rpc


def call(endpoint, path, request, response_type, timeout=5):
    with grpc.insecure_channel(endpoint, [("grpc.enable_http_proxy", 0)]) as channel:
        method = channel.unary_unary(
            path,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response_type.FromString,
        )
        return method(request, timeout=timeout)


def test_two_of_etcd_and_one_of_pyetcd(machine, free_ports, wait_until):
    ports = free_ports(6)
    clients, peers = ports[:3], ports[3:]
    cluster = ",".join(f"m{i}=http://127.0.0.1:{peer}" for i, peer in enumerate(peers))
    nodes = []
    for i, head in enumerate(([machine.etcd], [machine.etcd], [machine.pyetcd, "server"])):
        argv = [
            *head,
            f"--name=m{i}",
            f"--data-dir={machine.folder / f'm{i}'}",
            f"--listen-client-urls=http://127.0.0.1:{clients[i]}",
            f"--advertise-client-urls=http://127.0.0.1:{clients[i]}",
            f"--listen-peer-urls=http://127.0.0.1:{peers[i]}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peers[i]}",
            f"--initial-cluster={cluster}",
        ]
        nodes.append(machine.process(argv, name=f"m{i}", client_port=clients[i]).start())
    for node in nodes:
        node.wait_healthy()

    revision = 0
    for number in range(90):
        node = nodes[number % 3]
        put = rpc.PutRequest(key=b"k%d" % (number % 20), value=b"from m%d" % (number % 3))
        revision = call(node.endpoint, "/etcdserverpb.KV/Put", put, rpc.PutResponse).header.revision
    assert revision == 91
    ask = rpc.RangeRequest(key=b"k", range_end=b"l")
    answers = [
        call(node.endpoint, "/etcdserverpb.KV/Range", ask, rpc.RangeResponse).kvs for node in nodes
    ]
    assert len(answers[0]) == 20 and answers[0] == answers[1] == answers[2]
    request = rpc.HashKVRequest(revision=revision)
    hashes = {
        call(node.endpoint, "/etcdserverpb.Maintenance/HashKV", request, rpc.HashKVResponse).hash
        for node in nodes
    }
    assert len(hashes) == 1

    # The pyetcd member takes the lead, and gives it up again by dying.
    listed = call(
        nodes[2].endpoint, "/etcdserverpb.Cluster/MemberList", rpc.MemberListRequest(),
        rpc.MemberListResponse,
    )  # fmt: skip
    assert sorted(member.name for member in listed.members) == ["m0", "m1", "m2"]
    ours = next(member.ID for member in listed.members if member.name == "m2")
    path, empty = "/etcdserverpb.Maintenance/Status", rpc.StatusRequest()
    status = call(nodes[0].endpoint, path, empty, rpc.StatusResponse)
    if status.leader != ours:
        leader = next(
            node
            for node in nodes
            if call(node.endpoint, path, empty, rpc.StatusResponse).header.member_id
            == status.leader
        )
        move = rpc.MoveLeaderRequest(targetID=ours)
        call(leader.endpoint, "/etcdserverpb.Maintenance/MoveLeader", move, rpc.MoveLeaderResponse)
    for node in nodes:
        put = rpc.PutRequest(key=b"led by pyetcd", value=node.name.encode())
        call(node.endpoint, "/etcdserverpb.KV/Put", put, rpc.PutResponse)
    assert call(nodes[0].endpoint, path, empty, rpc.StatusResponse).leader == ours
    nodes[2].kill()

    def others_go_on():
        put = rpc.PutRequest(key=b"without pyetcd", value=b"x")
        try:
            call(nodes[0].endpoint, "/etcdserverpb.KV/Put", put, rpc.PutResponse, timeout=1)
        except grpc.RpcError:
            return False
        return True

    wait_until(others_go_on, "the two of etcd to go on")
    nodes[2].start().wait_healthy()
    got = call(
        nodes[2].endpoint,
        "/etcdserverpb.KV/Range",
        rpc.RangeRequest(key=b"without pyetcd"),
        rpc.RangeResponse,
    )
    assert got.kvs[0].value == b"x"
    assert "Traceback" not in nodes[2].log and '"level":"fatal"' not in nodes[2].log
