from pyetcd.proto import rpc_pb2 as _rpc_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RevisionAtRequest(_message.Message):
    __slots__ = ("seconds", "is_ago")
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    IS_AGO_FIELD_NUMBER: _ClassVar[int]
    seconds: int
    is_ago: bool
    def __init__(self, seconds: _Optional[int] = ..., is_ago: _Optional[bool] = ...) -> None: ...

class RevisionAtResponse(_message.Message):
    __slots__ = ("header", "revision", "written", "first", "asked", "now")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    ASKED_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    header: _rpc_pb2.ResponseHeader
    revision: int
    written: int
    first: int
    asked: int
    now: int
    def __init__(self, header: _Optional[_Union[_rpc_pb2.ResponseHeader, _Mapping]] = ..., revision: _Optional[int] = ..., written: _Optional[int] = ..., first: _Optional[int] = ..., asked: _Optional[int] = ..., now: _Optional[int] = ...) -> None: ...
