"""What the generated modules build their classes with.

protobuf's own builder loads the pure Python implementation of messages beside the C one that is
used: 8 of the 50 ms of a `pyetcd ctl get`. So with upb, the C implementation, its few steps are
taken here; with any other one protobuf's builder takes them.

There are no extensions and no service classes among our files: no step for them.
"""

from collections.abc import Callable
from typing import Any

from google.protobuf.internal import api_implementation
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message

DescriptorPool: Any
BuildMessageAndEnumDescriptors: Callable[[Any, dict[str, Any]], None]
BuildTopDescriptorsAndMessages: Callable[[Any, str, dict[str, Any]], None]


def _add_descriptors(file: Any, module: dict[str, Any]) -> None:
    """Gives a module the descriptors of its messages and of what is in them."""
    for message in file.message_types_by_name.values():
        _name_descriptors(message, "_", module)


def _add_classes(file: Any, module_name: str, module: dict[str, Any]) -> None:
    """Gives a module its enums, their values and its message classes."""
    for name, enum in file.enum_types_by_name.items():
        module["_" + name.upper()] = enum
        module[name] = EnumTypeWrapper(enum)
        module.update((value.name, value.number) for value in enum.values)
    for name, service in file.services_by_name.items():
        module["_" + name.upper()] = service
    for name, message in file.message_types_by_name.items():
        module[name] = _message_class(message, "", module_name)


def _name_descriptors(message: Any, prefix: str, module: dict[str, Any]) -> None:
    own = prefix + message.name.upper()
    module[own] = message
    for nested in message.nested_types:
        _name_descriptors(nested, own + "_", module)
    for enum in message.enum_types:
        module[f"{own}_{enum.name.upper()}"] = enum


def _message_class(message: Any, prefix: str, module_name: str) -> Any:
    own = prefix + message.name
    parts = {
        name: _message_class(nested, own + ".", module_name)
        for name, nested in message.nested_types_by_name.items()
    }
    parts |= {"DESCRIPTOR": message, "__module__": module_name, "__qualname__": own}
    return MessageMeta(message.name, (Message,), parts)


if api_implementation.Type() == "upb":
    from google._upb import _message as _upb

    DescriptorPool, MessageMeta = _upb.DescriptorPool, _upb.MessageMeta
    BuildMessageAndEnumDescriptors = _add_descriptors
    BuildTopDescriptorsAndMessages = _add_classes
else:
    from google.protobuf import descriptor_pool
    from google.protobuf.internal import builder

    DescriptorPool = descriptor_pool.DescriptorPool
    BuildMessageAndEnumDescriptors = builder.BuildMessageAndEnumDescriptors
    BuildTopDescriptorsAndMessages = builder.BuildTopDescriptorsAndMessages
