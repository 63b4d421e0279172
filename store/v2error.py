"""The errors of the v2 API: a number, its text, a cause, and the index at which it was found.

They are results like any other: the same entry gives the same error on every member, and the HTTP
side writes it as JSON (server/http/v2keys.py).
"""

from typing import Final

from pyetcd.proto.errors import Code, RpcError

KEY_NOT_FOUND: Final = 100
COMPARE_FAILED: Final = 101
NOT_FILE: Final = 102
NOT_DIR: Final = 104
NODE_EXISTS: Final = 105
ROOT_READ_ONLY: Final = 107
DIR_NOT_EMPTY: Final = 108
UNAUTHORIZED: Final = 110
PREV_VALUE_REQUIRED: Final = 201
TTL_NAN: Final = 202
INDEX_NAN: Final = 203
INVALID_FIELD: Final = 209
INVALID_FORM: Final = 210
REFRESH_VALUE: Final = 211
REFRESH_TTL_REQUIRED: Final = 212
RAFT_INTERNAL: Final = 300
LEADER_ELECT: Final = 301
EVENT_INDEX_CLEARED: Final = 401

MESSAGES: Final = {
    KEY_NOT_FOUND: "Key not found",
    COMPARE_FAILED: "Compare failed",
    NOT_FILE: "Not a file",
    NOT_DIR: "Not a directory",
    NODE_EXISTS: "Key already exists",
    ROOT_READ_ONLY: "Root is read only",
    DIR_NOT_EMPTY: "Directory not empty",
    UNAUTHORIZED: "The request requires user authentication",
    PREV_VALUE_REQUIRED: "PrevValue is Required in POST form",
    TTL_NAN: "The given TTL in POST form is not a number",
    INDEX_NAN: "The given index in POST form is not a number",
    INVALID_FIELD: "Invalid field",
    INVALID_FORM: "Invalid POST form",
    REFRESH_VALUE: "Value provided on refresh",
    REFRESH_TTL_REQUIRED: "A TTL must be provided on refresh",
    RAFT_INTERNAL: "Raft Internal Error",
    LEADER_ELECT: "During Leader Election",
    EVENT_INDEX_CLEARED: "The event in requested index is outdated and cleared",
}
_STATUS: Final = {
    KEY_NOT_FOUND: 404,
    NOT_FILE: 403,
    DIR_NOT_EMPTY: 403,
    UNAUTHORIZED: 401,
    COMPARE_FAILED: 412,
    NODE_EXISTS: 412,
    RAFT_INTERNAL: 500,
    LEADER_ELECT: 500,
}


class V2Error(RpcError):
    """An error with a number of the v2 API."""

    def __init__(self, number: int, cause: str = "", index: int = 0) -> None:
        self.number = number
        self.cause = cause
        self.index = index
        super().__init__(Code.UNKNOWN, f"{MESSAGES[number]} ({cause})")

    @property
    def status(self) -> int:
        """Of the HTTP answer."""
        return _STATUS.get(self.number, 400)
