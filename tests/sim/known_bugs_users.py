"""Known bugs of users and of the v2 store, put back: see known_bugs.py."""

from typing import Any

from pyetcd.proto import errors
from pyetcd.server import access
from pyetcd.server.api import auth as auth_api
from pyetcd.store import auth, auth_requests, v2, v2tree, v2watch
from pyetcd.store.tokens import SimpleTokens

Patch = tuple[Any, str, Any]


def old_rights_at_apply() -> list[Patch]:
    """How old the name of a request is does not count: a right taken away in between is still one
    (the time of check is not that of use)."""
    real = auth.AuthStore.check

    def check(self: Any, who: Any, key: bytes, range_end: bytes, kind: int) -> None:
        try:
            real(self, who, key, range_end, kind)
        except errors.AuthOldRevision:
            real(self, auth.Who(who.name, self.revision), key, range_end, kind)

    return [(auth.AuthStore, "check", check)]


def rights_kept_after_revocation() -> list[Patch]:
    """What a user may do is kept although a permission was revoked."""
    real = auth.AuthStore.revoke_permission

    def revoke_permission(self: Any, name: str, key: bytes, range_end: bytes) -> None:
        kept = dict(self._grants)
        real(self, name, key, range_end)
        self._grants.update(kept)

    return [(auth.AuthStore, "revoke_permission", revoke_permission)]


def users_not_read_from_snapshot() -> list[Patch]:
    """A member that installs a snapshot goes on with the users of before (etcd#14571)."""
    return [(auth_requests.AuthRequests, "reload", lambda self, backend: None)]


def auth_revision_not_persisted() -> list[Patch]:
    """The revision is that of memory alone: it falls at a restart."""

    def changed(self: Any) -> None:
        self._grants.clear()
        self.revision += 1

    return [(auth.AuthStore, "_changed", changed)]


def token_outlives_password() -> list[Patch]:
    """A token is good although the password was changed after it was given."""
    return [(SimpleTokens, "forget_user", lambda self, user: None)]


def password_checked_once() -> list[Patch]:
    """A token is given for a password that was changed between its check and the entry."""

    def assign(self: Any, name: str, password: str, revision: int, done: Any) -> None:
        proposal = auth_api.InternalRaftRequest()
        proposal.authenticate.name = name
        proposal.authenticate.simple_token = self._letters()
        self._proposer.propose(proposal, done)

    return [(auth_api.AuthApi, "_assign", assign)]


def certificate_before_token() -> list[Patch]:
    """Done in another name: the certificate counts before the token."""
    real = access.Access.who

    def who(self: Any, caller: Any) -> Any:
        if caller.common_name and self._client_cert_auth:
            return auth.Who(caller.common_name, self.auth.revision)
        return real(self, caller)

    return [(access.Access, "who", who)]


def v2_keys_expire_by_own_clock() -> list[Patch]:
    """Each member takes away what has run out by its own time, not by that of the entry."""
    real = v2tree.Tree.expire

    def expire(self: Any, until_ns: int) -> None:
        real(self, self._now_ns())

    return [(v2tree.Tree, "expire", expire)]


def v2_index_of_nodes() -> list[Patch]:
    """After a restart the index is that of the newest node, and falls if that was deleted."""
    real = v2.V2Store.reload

    def reload(self: Any, backend: Any) -> None:
        real(self, backend)
        self.tree.index = max(node.modified_index for node in self.tree.nodes())

    return [(v2.V2Store, "reload", reload)]


def v2_children_stay() -> list[Patch]:
    """A directory is deleted in the file without what is below it."""
    real = v2tree.Tree._take_away

    def take_away(self: Any, node: Any, action: str) -> Any:
        dropped, self.dropped = self.dropped, lambda gone: gone is node and dropped(gone)
        try:
            return real(self, node, action)
        finally:
            self.dropped = dropped

    return [(v2tree.Tree, "_take_away", take_away)]


def v2_not_read_from_snapshot() -> list[Patch]:
    """A member that installs a snapshot goes on with the v2 keys of before."""
    real = v2.V2Store.reload

    def reload(self: Any, backend: Any) -> None:
        if hasattr(self, "_backend"):
            self._backend = backend
            return
        real(self, backend)

    return [(v2.V2Store, "reload", reload)]


def v2_watchers_forgotten_at_restore() -> list[Patch]:
    """Who waits over an installed snapshot misses what happened meanwhile (docs/bugs.md)."""

    def replace(self: Any, history: Any, known: int) -> None:
        self.history = history

    return [(v2watch.Hub, "replace", replace)]


USER_BUGS = (
    old_rights_at_apply,
    rights_kept_after_revocation,
    users_not_read_from_snapshot,
    auth_revision_not_persisted,
    token_outlives_password,
    password_checked_once,
    certificate_before_token,
    v2_keys_expire_by_own_clock,
    v2_index_of_nodes,
    v2_children_stay,
    v2_not_read_from_snapshot,
    v2_watchers_forgotten_at_restore,
)
