"""Reading the YAML file of --config-file: what it says, and what is wrong with it.

The file is a map of option names. As in etcd, types are strict: a number is not a text, a duration
is a whole number of nanoseconds, null keeps the default, of a key that appears twice the last one
counts. Unlike etcd, an unknown key is a warning with the nearest known one, and every mistake names
its line.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence

import yaml

from pyetcd.proto.gotext import INT64_MAX, quote
from pyetcd.server import config_values as values
from pyetcd.server.config_options import ConfigError, Kind, Note, Option
from pyetcd.server.config_values import parse_urls

_EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")
_FLOAT_MAX = 1e21  # from there on Go writes an exponent into JSON, and then it is no whole number

FILE_BYTES_MAX = 1024 * 1024  # a larger file is not a configuration: refused

# etcd's own slip: it names the advertise option of clients after peers in this text.
_URL_NAMES = {"advertise-client-urls": "advertise-peer-urls"}


def read_file(path: str, options: Sequence[Option]) -> tuple[dict[str, object], list[Note]]:
    """Values by flag name, and warnings. Raises ConfigError."""
    text = _read(path)
    by_key = {option.yaml: option for option in options if option.yaml}
    maps = {key.partition(".")[0] for key in by_key if "." in key}
    found: dict[str, object] = {}
    notes: list[Note] = []
    for key, value, line in _entries(path, text, maps):
        option = by_key.get(key) or by_key.get(key.lower())
        if option is None:
            notes.append(_unknown(path, key, line, by_key, options))
        elif value is not None:
            if option.flag in found:
                notes.append(_note(path, "a key appears twice; the last one counts", key, line))
            try:
                found[option.flag] = _convert(option, value)
            except _Mismatch as mismatch:
                place = f"{path}: line {line}: {option.yaml}"
                raise ConfigError(f"{place} must be {mismatch}, not {_shown(value)}") from None
    return found, notes


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except IsADirectoryError:
        raise ConfigError(f"read {path}: is a directory; --config-file needs a file") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"open {path}: {reason}; check --config-file") from None
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"{path}: larger than 1 MiB; check --config-file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not YAML: not UTF-8 text; check --config-file") from None


def _entries(path: str, text: str, maps: set[str]) -> Iterator[tuple[str, object, int]]:
    """(key, value, line) of the first document; keys inside a map are joined with a dot."""
    try:
        loader = yaml.SafeLoader(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {_yaml_problem(error)}; correct the file") from None
    try:
        root = loader.get_node() if loader.check_node() else None
        if root is None or root.tag == "tag:yaml.org,2002:null":
            return
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError(f"{path}: expected lines of the form `key: value`; check the file")
        for key, node, line in _pairs(loader, root):
            if key not in maps:
                yield key, _value(loader, node), line
            elif isinstance(node, yaml.MappingNode):
                for inner, inner_node, inner_line in _pairs(loader, node):
                    yield f"{key}.{inner}", _value(loader, inner_node), inner_line
            elif _value(loader, node) is not None:
                shown = _shown(_value(loader, node))
                raise ConfigError(f"{path}: line {line}: {key} must be a map of files, not {shown}")
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {_yaml_problem(error)}; correct the file") from None
    except (ValueError, RecursionError) as error:  # an impossible date; nesting without end
        raise ConfigError(f"{path}: not YAML: {error}; correct the file") from None
    finally:
        loader.dispose()


def _pairs(
    loader: yaml.SafeLoader, mapping: yaml.MappingNode
) -> Iterator[tuple[str, yaml.Node, int]]:
    loader.flatten_mapping(mapping)
    for key_node, node in mapping.value:
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
        yield key, node, key_node.start_mark.line + 1


def _value(loader: yaml.SafeLoader, node: yaml.Node) -> object:
    if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:timestamp":
        return node.value  # etcd's reader has no dates: it is text
    if isinstance(node, yaml.ScalarNode) and node.style is None and _EXPONENT.fullmatch(node.value):
        return float(node.value)  # PyYAML wants a point in it, YAML does not
    value: object = loader.construct_object(node, deep=True)
    return value


def _yaml_problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return str(error).splitlines()[0]


class _Mismatch(Exception):
    """The value is not what the option needs; the text says what is needed."""


def _convert(option: Option, value: object) -> object:
    kind = option.kind
    if kind is Kind.BOOL:
        if not isinstance(value, bool):
            raise _Mismatch("true or false")
        return value
    if kind in (Kind.UINT, Kind.INT, Kind.DURATION):
        return _number(option, value)
    if option.flag in ("log-outputs", "cipher-suites"):
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise _Mismatch("a list of texts, such as [stderr]")
        return tuple(value)
    if not isinstance(value, str):
        raise _Mismatch(
            f'a text; in quotes it is one: "{_plain(value)}"'
            if _is_scalar(value)
            else "a text, several values with commas between them"
        )
    return _text(option, value)


def _number(option: Option, value: object) -> object:
    if isinstance(value, float) and value.is_integer() and abs(value) < _FLOAT_MAX:
        value = int(value)  # so templates write large numbers: 8.589934592e+09
    if option.kind is Kind.DURATION:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _Mismatch("a whole number of nanoseconds (5s is 5000000000)")
        return value / 1e9
    if isinstance(value, bool) or not isinstance(value, int):
        raise _Mismatch("a whole number")
    if option.kind is Kind.UINT and not 0 <= value <= option.value_max:
        raise _Mismatch(f"a whole number from 0 to {option.value_max}")
    if not -INT64_MAX <= value <= values.UINT64_MAX:
        raise _Mismatch("a whole number of 64 bits")
    return value


def _text(option: Option, value: str) -> object:
    if option.kind in (Kind.URLS, Kind.ORIGINS):
        if not value:
            return None  # as if the key were not there
        try:
            return parse_urls(value) if option.kind is Kind.URLS else option.parse(value)
        except ValueError as error:
            name = _URL_NAMES.get(option.flag, option.flag)
            raise ConfigError(f"unexpected error setting up {name}: {error}") from None
    if option.flag == "initial-cluster-state" and value and value not in option.choices:
        raise ConfigError(f"unexpected clusterState {quote(value)}; use new or existing")
    if not value and option.kind is not Kind.STRING:
        return None
    try:
        return option.parse(value)
    except ValueError:
        raise _Mismatch("one of " + ", ".join(option.choices)) from None


def _is_scalar(value: object) -> bool:
    return isinstance(value, bool | int | float)


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shown(value: object) -> str:
    if isinstance(value, str):
        return quote(value[:80])
    if isinstance(value, Mapping):
        return "a map"
    return "a list" if isinstance(value, list) else _plain(value)[:80]


def _note(path: str, msg: str, key: str, line: int, **more: object) -> Note:
    return Note("warn", msg, {"path": path, "key": key, "line": line, **more})


def _unknown(
    path: str, key: str, line: int, by_key: Mapping[str, Option], options: Sequence[Option]
) -> Note:
    for option in options:
        if option.flag == key and not option.yaml:
            return _note(path, "a key that only a flag can set is ignored", key, line)
        if option.flag == key:  # a flag's name where the file wants it inside a map
            return _note(path, "unknown key is ignored", key, line, nearest=option.yaml)
    # A name inside the wrong map, or at the top, is nearest to its full name.
    near = difflib.get_close_matches(key, list(by_key), 1, 0.5)
    if not near:
        short = {name.partition(".")[2]: name for name in by_key if "." in name}
        near = [short[one] for one in difflib.get_close_matches(key, list(short), 1, 0.6)]
    return _note(path, "unknown key is ignored", key, line, nearest=near[0] if near else "")
