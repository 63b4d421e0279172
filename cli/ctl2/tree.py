"""The commands of the v2 API with their flags, as data. Names, defaults and texts are etcdctl's."""

from typing import Final

from pyetcd.cli.ctl2.command import PROGRAM, Command
from pyetcd.cli.ctl2.flags import Flag, boolean, integer, span, text

DEFAULT_ENDPOINTS: Final = "http://127.0.0.1:2379,http://127.0.0.1:4001"
KEYS, WATCH = "pyetcd.cli.ctl2.keys:", "pyetcd.cli.ctl2.watch:"
MEMBERS, AUTH = "pyetcd.cli.ctl2.members:", "pyetcd.cli.ctl2.auth:"

_REPLACED = 'DEPRECATED - "--endpoints" should be used instead'
GLOBAL: Final = (
    boolean("debug", usage="output cURL commands which can be used to reproduce the request"),
    boolean("no-sync", usage="don't synchronize cluster information before sending request"),
    text(
        "output",
        "o",
        usage="output response in the given format (`simple`, `extended` or `json`)",
        default="simple",
    ),
    text(
        "discovery-srv",
        "D",
        usage="domain name to query for SRV records describing cluster endpoints",
    ),
    boolean("insecure-discovery", usage="accept insecure SRV records describing cluster endpoints"),
    text("peers", "C", usage=_REPLACED),
    text("endpoint", usage=_REPLACED),
    text(
        "endpoints",
        usage="a comma-delimited list of machine addresses in the cluster"
        f' (default: "{DEFAULT_ENDPOINTS}")',
    ),
    text("cert-file", usage="identify HTTPS client using this SSL certificate file"),
    text("key-file", usage="identify HTTPS client using this SSL key file"),
    text("ca-file", usage="verify certificates of HTTPS-enabled servers using this CA bundle"),
    text(
        "username",
        "u",
        usage="provide username[:password] and prompt if password is not supplied.",
    ),
    span("timeout", "connection timeout per request", "2s"),
    span("total-timeout", "timeout for the command execution (except watch)", "5s"),
)

_TTL = integer("ttl", "key time-to-live in seconds")
_SORT = boolean("sort", usage="returns result in sorted order")
_QUORUM = boolean("quorum", "q", usage="require quorum for get request")
_AFTER = integer("after-index", "watch after the given index")

_KEY_COMMANDS = (
    Command(
        "mk",
        "make a new key with a given value",
        KEYS + "mk",
        "<key> <value>",
        (boolean("in-order", usage="create in-order key under directory <key>"), _TTL),
    ),
    Command("mkdir", "make a new directory", KEYS + "mkdir", "<key>", (_TTL,)),
    Command(
        "rm",
        "remove a key or a directory",
        KEYS + "rm",
        "<key>",
        (
            boolean("dir", usage="removes the key if it is an empty directory or a key-value pair"),
            boolean(
                "recursive", "r", usage="removes the key and all child keys(if it is a directory)"
            ),
            text("with-value", usage="previous value"),
            integer("with-index", "previous index"),
        ),
    ),
    Command(
        "rmdir",
        "removes the key if it is an empty directory or a key-value pair",
        KEYS + "rmdir",
        "<key>",
    ),
    Command("get", "retrieve the value of a key", KEYS + "get", "<key>", (_SORT, _QUORUM)),
    Command(
        "ls",
        "retrieve a directory",
        KEYS + "ls",
        "[key]",
        (
            _SORT,
            boolean("recursive", "r", usage="returns all key names recursively for the given path"),
            boolean("p", usage="append slash (/) to directories"),
            _QUORUM,
        ),
    ),
    Command(
        "set",
        "set the value of a key",
        KEYS + "set_key",
        "<key> <value>",
        (
            _TTL,
            text("swap-with-value", usage="previous value"),
            integer("swap-with-index", "previous index"),
        ),
        description="Set sets the value of a key.\n\n"
        "   When <value> begins with '-', <value> is interpreted as a flag.\n"
        "   Insert '--' for workaround:\n\n"
        "   $ set -- <key> <value>",
    ),
    Command(
        "setdir",
        "create a new directory or update an existing directory TTL",
        KEYS + "setdir",
        "<key>",
        (_TTL,),
    ),
    Command(
        "update",
        "update an existing key with a given value",
        KEYS + "update",
        "<key> <value>",
        (_TTL,),
    ),
    Command(
        "updatedir",
        "update an existing directory",
        KEYS + "updatedir",
        "<key> <value>",
        (_TTL,),
    ),
    Command(
        "watch",
        "watch a key for changes",
        WATCH + "watch",
        "<key>",
        (
            boolean("forever", "f", usage="forever watch a key until CTRL+C"),
            _AFTER,
            boolean("recursive", "r", usage="returns all values for key and child keys"),
        ),
    ),
    Command(
        "exec-watch",
        "watch a key for changes and exec an executable",
        WATCH + "exec_watch",
        "<key> <command> [args...]",
        (_AFTER, boolean("recursive", "r", usage="watch all values for key and child keys")),
    ),
)

_MEMBER = Command(
    "member",
    "member add, remove and list subcommands",
    children=(
        Command("list", "enumerate existing cluster members", MEMBERS + "list_members", " "),
        Command("add", "add a new member to the etcd cluster", MEMBERS + "add", "<name> <peerURL>"),
        Command(
            "remove",
            "remove an existing member from the etcd cluster",
            MEMBERS + "remove",
            "<memberID>",
        ),
        Command(
            "update",
            "update an existing member in the etcd cluster",
            MEMBERS + "update",
            "<memberID> <peerURLs>",
        ),
    ),
)

_ROLES = Flag(("roles",), "list", "List of roles to grant or revoke")
_USER = Command(
    "user",
    "user add, grant and revoke subcommands",
    children=(
        Command("add", "add a new user for the etcd cluster", AUTH + "user_add", "<user>"),
        Command("get", "get details for a user", AUTH + "user_get", "<user>"),
        Command("list", "list all current users", AUTH + "user_list", "<user>"),
        Command("remove", "remove a user for the etcd cluster", AUTH + "user_remove", "<user>"),
        Command("grant", "grant roles to an etcd user", AUTH + "user_grant", "<user>", (_ROLES,)),
        Command(
            "revoke", "revoke roles for an etcd user", AUTH + "user_revoke", "<user>", (_ROLES,)
        ),
        Command("passwd", "change password for a user", AUTH + "user_passwd", "<user>"),
    ),
)

_ROLE = Command(
    "role",
    "role add, grant and revoke subcommands",
    children=(
        Command("add", "add a new role for the etcd cluster", AUTH + "role_add", "<role> "),
        Command("get", "get details for a role", AUTH + "role_get", "<role>"),
        Command("list", "list all roles", AUTH + "role_list", " "),
        Command("remove", "remove a role from the etcd cluster", AUTH + "role_remove", "<role>"),
        Command(
            "grant",
            "grant path matches to an etcd role",
            AUTH + "role_grant",
            "<role>",
            (
                text("path", usage="Path granted for the role to access"),
                boolean("read", usage="Grant read-only access"),
                boolean("write", usage="Grant write-only access"),
                boolean("readwrite", "rw", usage="Grant read-write access"),
            ),
        ),
        Command(
            "revoke",
            "revoke path matches for an etcd role",
            AUTH + "role_revoke",
            "<role>",
            (
                text("path", usage="Path revoked for the role to access"),
                boolean("read", usage="Revoke read access"),
                boolean("write", usage="Revoke write access"),
                boolean("readwrite", "rw", usage="Revoke read-write access"),
            ),
        ),
    ),
)

_AUTH = Command(
    "auth",
    "overall auth controls",
    children=(
        Command("enable", "enable auth access controls", AUTH + "enable", " "),
        Command("disable", "disable auth access controls", AUTH + "disable", " "),
    ),
)

_BACKUP = Command(
    "backup",
    "--data-dir=... --backup-dir={output}",
    "pyetcd.cli.ctl2.backup:backup",
    flags=(
        text("data-dir", usage="Path to the etcd data dir"),
        text("wal-dir", usage="Path to the etcd wal dir"),
        text("backup-dir", usage="Path to the backup dir"),
        text("backup-wal-dir", usage="Path to the backup wal dir"),
        boolean("with-v3", usage="Backup v3 backend data"),
    ),
    usage_text="[deprecated] offline backup an etcd directory.",
    description="Performs an offline backup of etcd directory.\n\n"
    "Moved to `./etcdutl backup` and going to be decomissioned in v3.5\n\n"
    "The recommended (online) backup command is: `./etcdctl snapshot save ...`.\n\n",
)

ROOT: Final = Command(
    PROGRAM,
    "A simple command line client for etcd.",
    flags=GLOBAL,
    children=(
        _BACKUP,
        Command(
            "cluster-health",
            "check the health of the etcd cluster",
            MEMBERS + "cluster_health",
            " ",
            (
                boolean(
                    "forever", "f", usage="forever check the health every 10 second until CTRL+C"
                ),
            ),
        ),
        *_KEY_COMMANDS,
        _MEMBER,
        _USER,
        _ROLE,
        _AUTH,
    ),
)
