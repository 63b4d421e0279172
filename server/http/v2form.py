"""What a v2 request asks: the form of its query and body, as Go's net/http reads one.

The first of several values counts, one of the body before one of the query. A body is a form only
if its Content-Type says so. Etcd 3.5.1 was built with a Go that also splits at semicolons.

Limit. Text that is not UTF-8 is refused, where etcd keeps its bytes.
"""

import re
from typing import Final

from pyetcd.proto.gotext import quote
from pyetcd.proto.v2request_pb2 import Request
from pyetcd.server.wire.http1 import HttpRequest
from pyetcd.store import v2error
from pyetcd.store.v2 import KEYS
from pyetcd.store.v2error import V2Error
from pyetcd.store.v2tree import clean

_TRUE: Final = frozenset(("1", "t", "T", "true", "TRUE", "True"))
_FALSE: Final = frozenset(("0", "f", "F", "false", "FALSE", "False"))
_UINT64_MAX: Final = (1 << 64) - 1
_ESCAPE: Final = re.compile(rb"%([0-9a-fA-F]{2})")
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9a-fA-F]{2}).{0,2}", re.DOTALL)

Form = dict[str, str]


def parse_form(request: HttpRequest) -> Form:
    """V2Error for what is none."""
    form: Form = {}
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method in ("PUT", "POST", "PATCH") and kind == "application/x-www-form-urlencoded":
        _read(request.body, form)
    _read(request.query.encode("latin-1", "replace"), form)
    return form


def _read(data: bytes, form: Form) -> None:
    for pair in re.split(b"[&;]", data):
        if not pair:
            continue
        key, _, value = pair.partition(b"=")
        name, text = _unescape(key), _unescape(value)
        form.setdefault(name, text)


def _unescape(data: bytes) -> str:
    if bad := _BAD_ESCAPE.search(data):
        cause = f"invalid URL escape {quote(bad.group().decode('latin-1'))}"
        raise V2Error(v2error.INVALID_FORM, cause)
    plain = _ESCAPE.sub(lambda m: bytes((int(m[1], 16),)), data.replace(b"+", b" "))
    try:
        return plain.decode()
    except UnicodeDecodeError:
        raise V2Error(v2error.INVALID_FORM, "text is not UTF-8") from None


def key_request(request: HttpRequest, path: str, now_ns: int) -> tuple[Request, bool]:
    """The request, and noValueOnSuccess. `path` is what follows /v2/keys. V2Error, checked in
    etcd's order."""
    form = parse_form(request)
    made = Request(Method=request.method, Path=clean(KEYS + "/" + path))
    made.PrevIndex = _uint64(form, "prevIndex", v2error.INDEX_NAN)
    made.Since = _uint64(form, "waitIndex", v2error.INDEX_NAN)
    made.Recursive = _bool(form, "recursive")
    made.Sorted = _bool(form, "sorted")
    made.Wait = _bool(form, "wait")
    made.Dir = _bool(form, "dir")
    made.Quorum = _bool(form, "quorum")
    made.Stream = _bool(form, "stream")
    if made.Wait and request.method != "GET":
        raise V2Error(v2error.INVALID_FIELD, '"wait" can only be used with GET requests')
    made.PrevValue = form.get("prevValue", "")
    if "prevValue" in form and not made.PrevValue:
        raise V2Error(v2error.PREV_VALUE_REQUIRED, '"prevValue" cannot be empty')
    no_value = _bool(form, "noValueOnSuccess")
    ttl_s = _uint64(form, "ttl", v2error.TTL_NAN) if form.get("ttl") else None
    if "prevExist" in form:
        made.PrevExist = _bool(form, "prevExist", quotes=False)
    if "refresh" in form:
        made.Refresh = _bool(form, "refresh", quotes=False)
        if made.Refresh and form.get("value"):
            raise V2Error(v2error.REFRESH_VALUE, "A value was provided on a refresh")
        if made.Refresh and ttl_s is None:
            raise V2Error(v2error.REFRESH_TTL_REQUIRED, "No TTL value set")
    made.Val = form.get("value", "")
    if ttl_s is not None:
        # Go's time.Duration goes round after 292 years.
        made.Expiration = _int64(now_ns + _int64(ttl_s * 1_000_000_000))
    return made, no_value


def _int64(value: int) -> int:
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def _uint64(form: Form, name: str, error: int) -> int:
    text = form.get(name)
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and int(text[:40]) <= _UINT64_MAX and _short(text)):
        raise V2Error(error, f'invalid value for "{name}"')
    return int(text)


def _short(text: str) -> bool:
    return len(text.lstrip("0")) <= 20


def _bool(form: Form, name: str, *, quotes: bool = True) -> bool:
    text = form.get(name)
    if text is None or text in _FALSE:
        return False
    if text in _TRUE:
        return True
    shown = f'"{name}"' if quotes else name
    raise V2Error(v2error.INVALID_FIELD, f"invalid value for {shown}")
