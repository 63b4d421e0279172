"""gRPC server reflection and health, asked by grpcio's own client; etcd 3.5.1 is asked beside it.

etcd registers no reflection (docs/differences.md): its part of the judgement is health.
"""

import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from pyetcd.proto import health_pb2, reflection_pb2, reflection_v1alpha_pb2

V1 = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
ALPHA = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
HEALTH = "/grpc.health.v1.Health/"
OWN_SERVICES = {
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "pyetcdpb.Times",
}
ETCD_SERVICES = {
    "etcdserverpb.Auth",
    "etcdserverpb.Cluster",
    "etcdserverpb.KV",
    "etcdserverpb.Lease",
    "etcdserverpb.Maintenance",
    "etcdserverpb.Watch",
    "grpc.health.v1.Health",
    "v3electionpb.Election",
    "v3lockpb.Lock",
}


@pytest.fixture(scope="module")
def nodes(machine_type: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    machine = machine_type(tmp_path_factory.mktemp("nodes"))
    stops = "--experimental-stop-grpc-service-on-defrag"
    yield {"pyetcd": machine.single("pyetcd", stops), "etcd": machine.single("etcd")}
    machine.close()


@pytest.fixture
def channel(nodes: dict[str, Any]) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(nodes["pyetcd"].endpoint) as made:
        yield made


def ask(channel: grpc.Channel, path: str, *requests: dict[str, Any]) -> list[Any]:
    module: Any = reflection_pb2 if path == V1 else reflection_v1alpha_pb2
    call = channel.stream_stream(
        path,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=module.ServerReflectionResponse.FromString,
    )
    made = [module.ServerReflectionRequest(**request) for request in requests]
    return list(call(iter(made), timeout=10))


def names(answer: Any) -> list[str]:
    """Of the files in an answer."""
    files = answer.file_descriptor_response.file_descriptor_proto
    return [descriptor_pb2.FileDescriptorProto.FromString(file).name for file in files]


def test_the_client_of_grpcio_finds_all_and_calls_by_it(channel: grpc.Channel) -> None:
    """As grpcurl does: no .proto file is there, every type comes from the server."""
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) == ETCD_SERVICES | OWN_SERVICES
    pool = DescriptorPool(database)
    for name in sorted(ETCD_SERVICES | OWN_SERVICES):
        assert pool.FindServiceByName(name).methods, name
    kv = pool.FindServiceByName("etcdserverpb.KV")
    for name, fields in (("Put", {"key": b"k", "value": b"v"}), ("Range", {"key": b"k"})):
        method = kv.methods_by_name[name]
        request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        call = channel.unary_unary(
            f"/etcdserverpb.KV/{name}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        answer: Any = call(request(**fields), timeout=10)
    assert answer.kvs[0].value == b"v"
    assert set(database.FindAllExtensionNumbers("etcdserverpb.PutRequest")) == set()


@pytest.mark.parametrize("path", [V1, ALPHA])
def test_both_versions_answer_alike(channel: grpc.Channel, path: str) -> None:
    (listed,) = ask(channel, path, {"host": "h", "list_services": "*"})
    found = [service.name for service in listed.list_services_response.service]
    assert found == sorted(ETCD_SERVICES | OWN_SERVICES)
    assert (listed.valid_host, listed.original_request.list_services) == ("h", "*")


@pytest.mark.parametrize(
    "symbol",
    [
        "etcdserverpb.KV",
        "etcdserverpb.KV.Put",
        "etcdserverpb.PutRequest",
        "etcdserverpb.PutRequest.key",
        "etcdserverpb.RangeRequest.SortOrder",
        "etcdserverpb.AlarmType",
        "etcdserverpb.NOSPACE",
    ],
)
def test_every_kind_of_symbol(channel: grpc.Channel, symbol: str) -> None:
    (answer,) = ask(channel, V1, {"file_containing_symbol": symbol})
    assert names(answer) == [
        f"pyetcd/proto/{name}.proto" for name in ("rpc", "kv", "auth")
    ]  # with what it imports


def test_a_file_is_sent_once_per_stream(channel: grpc.Channel) -> None:
    first, second, third = ask(
        channel,
        V1,
        {"file_by_filename": "pyetcd/proto/kv.proto"},
        {"file_by_filename": "pyetcd/proto/rpc.proto"},
        {"file_by_filename": "pyetcd/proto/rpc.proto"},
    )
    assert names(first) == ["pyetcd/proto/kv.proto"]
    assert names(second) == ["pyetcd/proto/rpc.proto", "pyetcd/proto/auth.proto"]
    assert names(third) == [] and third.HasField("file_descriptor_response")


@pytest.mark.parametrize(
    "request_",
    [
        {"file_by_filename": "nope.proto"},
        {"file_containing_symbol": "etcdserverpb"},
        {"file_containing_symbol": "etcdserverpb.KV.Nope"},
        {"file_containing_symbol": ""},
        {"file_containing_extension": {"containing_type": "nope.Nope", "extension_number": 1}},
        {
            "file_containing_extension": {
                "containing_type": "etcdserverpb.PutRequest",
                "extension_number": 100,
            }
        },
        {"all_extension_numbers_of_type": "nope.Nope"},
    ],
    ids=str,
)
def test_what_is_not_there_is_an_answer_and_the_stream_goes_on(
    channel: grpc.Channel, request_: dict[str, Any]
) -> None:
    missing, listed = ask(channel, V1, request_, {"list_services": ""})
    assert missing.error_response.error_code == 5
    assert missing.error_response.error_message == "proto:\u00a0not found"
    assert len(listed.list_services_response.service) == len(ETCD_SERVICES | OWN_SERVICES)


def test_no_extensions(channel: grpc.Channel) -> None:
    (answer,) = ask(channel, V1, {"all_extension_numbers_of_type": "etcdserverpb.PutRequest"})
    found = answer.all_extension_numbers_response
    assert (found.base_type_name, list(found.extension_number)) == ("etcdserverpb.PutRequest", [])


def test_a_request_that_asks_nothing(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ask(channel, V1, {"host": "h"})
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "invalid MessageRequest: <nil>"


def test_etcd_has_no_reflection(nodes: dict[str, Any]) -> None:
    with grpc.insecure_channel(nodes["etcd"].endpoint) as channel:
        for path in (V1, ALPHA):
            with pytest.raises(grpc.RpcError) as caught:
                ask(channel, path, {"list_services": "*"})
            error: Any = caught.value
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED


# ---- health ----


def check(channel: grpc.Channel, service: str) -> object:
    call = channel.unary_unary(
        HEALTH + "Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    try:
        return call(health_pb2.HealthCheckRequest(service=service), timeout=10).status
    except grpc.RpcError as error:
        problem: Any = error
        return problem.code(), problem.details()


def watch(channel: grpc.Channel, service: str) -> Any:
    call = channel.unary_stream(
        HEALTH + "Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    return call(health_pb2.HealthCheckRequest(service=service), timeout=20)


@pytest.mark.parametrize("service", ["", "etcdserverpb.KV", "nope"])
def test_health_is_that_of_etcd(nodes: dict[str, Any], service: str) -> None:
    answers = []
    for node in nodes.values():
        with grpc.insecure_channel(node.endpoint) as channel:
            stream = watch(channel, service)
            answers.append((check(channel, service), next(stream).status))
            stream.cancel()
    assert answers[0] == answers[1]


def test_a_defragmentation_is_not_serving(
    nodes: dict[str, Any], channel: grpc.Channel, wait_until: Any
) -> None:
    """With the flag; what a watch sees of it is in tests/server/test_health_api.py."""
    assert "NOT_SERVING" not in nodes["pyetcd"].log
    channel.unary_unary("/etcdserverpb.Maintenance/Defragment")(b"", timeout=10)

    def told() -> list[str]:  # the log is written by a thread
        whole = nodes["pyetcd"].log.rpartition("\n")[0]
        lines = [json.loads(line) for line in whole.splitlines() if line[0] == "{"]
        return [line["status"] for line in lines if line["msg"] == "grpc service status changed"]

    wait_until(lambda: len(told()) == 2, "both lines")
    assert told() == ["NOT_SERVING", "SERVING"]
    assert check(channel, "") == health_pb2.HealthCheckResponse.SERVING
