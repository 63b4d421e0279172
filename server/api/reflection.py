"""grpc.reflection: which services there are, and the descriptors of their messages.

Strategy. The descriptors are those that the generated code has put into our pool; nothing is made
for it. One handler serves both versions of the service, whose messages are equal field by field.
A file is sent with all files that it imports, each once per stream, as grpc-go sends them.

Rules. Errors are answers, so that the stream goes on: NOT_FOUND with Go's text. A request that asks
nothing ends the stream with INVALID_ARGUMENT.
"""

from collections.abc import Iterable
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FileDescriptor

from pyetcd.proto.errors import Code, RpcError
from pyetcd.proto.pool import POOL
from pyetcd.proto.services import METHODS
from pyetcd.server.wire.grpc import ServerStream

_NOT_FOUND: Final = "proto:\u00a0not found"  # with Go's space, which nobody shall compare with


def service_names(paths: Iterable[str]) -> list[str]:
    """The names of the services behind the paths of methods."""
    return sorted({path.split("/")[1] for path in paths})


class ReflectionApi:
    """The handler; `names` are the services that the listener has."""

    def __init__(self, names: list[str]) -> None:
        self._names = names

    async def info(self, stream: ServerStream) -> None:
        answer_type = METHODS[stream.method.path].response
        sent: set[str] = set()  # names of files; bounded by the pool
        async for asked in stream:
            answer: Any = answer_type()
            request: Any = asked
            answer.valid_host = request.host
            answer.original_request.CopyFrom(request)
            kind = request.WhichOneof("message_request")
            if kind is None:
                raise RpcError(Code.INVALID_ARGUMENT, "invalid MessageRequest: <nil>")
            try:
                self._answer(request, kind, answer, sent)
            except KeyError:
                answer.error_response.error_code = Code.NOT_FOUND
                answer.error_response.error_message = _NOT_FOUND
            stream.send(answer.SerializeToString())
            await stream.drain()

    def _answer(self, request: Any, kind: str, answer: Any, sent: set[str]) -> None:
        """Raises KeyError for what is not there."""
        wanted = getattr(request, kind)
        if kind == "list_services":
            listed = answer.list_services_response
            for name in self._names:
                listed.service.add(name=name)
        elif kind == "all_extension_numbers_of_type":
            found = answer.all_extension_numbers_response
            found.base_type_name = wanted
            file_of_symbol(wanted)
            found.extension_number.extend(_extension_numbers(wanted))
        else:
            if kind == "file_by_filename":
                file = POOL.FindFileByName(wanted)
            elif kind == "file_containing_symbol":
                file = file_of_symbol(wanted)
            else:
                extended = POOL.FindMessageTypeByName(wanted.containing_type)
                extension: Any = POOL.FindExtensionByNumber(extended, wanted.extension_number)
                file = extension.file
            # Set even when all of it was sent before: an answer without anything would be none.
            files = answer.file_descriptor_response
            files.SetInParent()
            files.file_descriptor_proto.extend(_with_imports(file, sent))


def file_of_symbol(name: str) -> FileDescriptor:
    """Raises KeyError. The pool does not find methods by itself."""
    try:
        return POOL.FindFileContainingSymbol(name)
    except KeyError:
        service, _, method = name.rpartition(".")
        found = POOL.FindServiceByName(service)
        return found.methods_by_name[method].containing_service.file


def _extension_numbers(type_name: str) -> list[int]:
    try:
        extended: Descriptor = POOL.FindMessageTypeByName(type_name)
    except KeyError:
        return []  # another kind of symbol
    return sorted(extension.number for extension in POOL.FindAllExtensions(extended))


def _with_imports(file: FileDescriptor, sent: set[str]) -> list[bytes]:
    """The file, then what it imports, without those that were sent."""
    found: list[bytes] = []
    waiting = [file]
    while waiting:
        now = waiting.pop(0)
        if now.name not in sent:
            sent.add(now.name)
            found.append(now.serialized_pb)
            waiting.extend(now.dependencies)
    return found
