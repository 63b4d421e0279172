"""The cluster as the v2 commands see it: a list of endpoints, of which one is asked at a time.

As etcd's client/v2: the endpoints are shuffled; a request goes to the one that answered last and,
when that gives no answer or a server error, to the others in turn. A request that must not be done
twice (a delete, a create) is sent once. Before its work a command asks for the members and goes on
with their client URLs (--no-sync: with what it was given).
"""

import os
from dataclasses import replace
from typing import Final

from pyetcd.cli import gotext, gourl
from pyetcd.cli.ctl2.action import Action
from pyetcd.cli.ctl2.context import BAD_CONNECTION, SERVER_ERROR, Context
from pyetcd.cli.ctl2.exchange import (
    DIAL_TIMEOUT_S,
    Exchanger,
)
from pyetcd.cli.ctl2.failure import Deadline, DeadlineExceeded, Failure
from pyetcd.cli.ctl2.http1 import INTERNAL_ERROR, UNAVAILABLE, Answer, Request, basic
from pyetcd.cli.ctl2.member_list import LIST, read_members
from pyetcd.cli.ctl2.tree import DEFAULT_ENDPOINTS
from pyetcd.cli.ctl2.trust import Trust
from pyetcd.cli.gourl import URL, BadURL
from pyetcd.cli.terminal import Exit

REDIRECTS_MAX: Final = 10
NO_ENDPOINTS = "client: no endpoints available"


class Unavailable(Failure):
    """All endpoints failed."""

    def __init__(self, failures: list[Failure]) -> None:
        lines = [f"error #{at}: {failure}\n" for at, failure in enumerate(failures)]
        text = "client: etcd cluster is unavailable or misconfigured"
        super().__init__(
            text + "".join(f"; {line}" for line in lines),
            connection=all(failure.connection for failure in failures),
        )
        self.detail = "".join(lines)


class Cluster:
    """Raises Failure where a request gets no answer."""

    def __init__(self, context: Context, endpoints: list[URL], exchanger: Exchanger) -> None:
        self._context = context
        self._exchanger = exchanger
        self._endpoints = _shuffled(endpoints)
        self._pinned = 0
        self._authorization: dict[str, str] = {}
        self.prints_curl = False

    @property
    def endpoints(self) -> list[str]:
        """In the order in which they are asked."""
        return [str(endpoint) for endpoint in self._endpoints]

    def authenticate(self, user: str, password: str) -> None:
        """Sends the user and password along from now on."""
        self._authorization = {"Authorization": basic(f"{user}:{password}")}

    def deadline(self) -> Deadline:
        """--total-timeout, from now on."""
        return Deadline(self._context.globals.integer("total-timeout") / 1e9)

    def do(self, action: Action, deadline: Deadline) -> Answer:
        """The answer of the first endpoint that has one; raises Failure."""
        failures: list[Failure] = []
        endpoints, pinned = self._endpoints, self._pinned
        for turn in range(len(endpoints)):
            at = (pinned + turn) % len(endpoints)
            failure: Failure | None = None
            try:
                answer = self._send(action, endpoints[at], deadline)
            except DeadlineExceeded:
                raise
            except Failure as found:
                failure = found
            else:
                failure = _server_error(endpoints[at], answer.status)
                if failure is None:
                    self._pinned = at
                    return answer
            failures.append(failure)
            if action.once:
                self._pinned = (at + 1) % len(endpoints)
                raise failure
        raise Unavailable(failures)

    def _send(self, action: Action, endpoint: URL, deadline: Deadline) -> Answer:
        url = endpoint.below(action.path, keep_slash=action.keep_slash)
        url = url.asking(dict(action.query)) if action.query else url
        headers = {**action.headers, **self._authorization}
        request = Request(action.method, url, headers, action.body)
        for _ in range(REDIRECTS_MAX + 1):
            if self.prints_curl:
                self._context.warn(_curl(request))
            answer = self._exchanger.send(request, deadline, waits=action.waits)
            if answer.status // 100 != 3:
                return answer
            place = answer.headers.get("location", "")
            if not place:
                raise Failure("location header not set")
            try:
                request = replace(request, url=gourl.parse(place))
            except BadURL:
                raise Failure(f"location header not valid URL: {place}") from None
        raise Failure("client: too many redirects")

    def sync(self) -> None:
        """Goes on with the client URLs of the members; raises Failure."""
        members = read_members(self.do(LIST, self.deadline()))
        texts = [url for member in members for url in member.client_urls]
        if not texts:
            raise NoEndpoints
        try:
            found = [gourl.parse(text) for text in texts]
        except BadURL as mistake:
            raise Failure(str(mistake)) from None
        if sorted(map(str, found)) != sorted(self.endpoints):
            self._endpoints = _shuffled(found)
            self._pinned = 0


class NoEndpoints(Failure):
    """The members have published no client URL."""

    def __init__(self) -> None:
        super().__init__(NO_ENDPOINTS)


def _shuffled(endpoints: list[URL]) -> list[URL]:
    return sorted(endpoints, key=lambda _: os.urandom(8))


def _server_error(endpoint: URL, status: int) -> Failure | None:
    if status // 100 != 5:
        return None
    if status in (INTERNAL_ERROR, UNAVAILABLE):
        return Failure(f"client: etcd member {endpoint} has no leader")
    from http import HTTPStatus

    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else ""
    return Failure(f"client: etcd member {endpoint} returns server error [{phrase}]")


def _curl(request: Request) -> str:
    line = f"cURL Command: curl -X {request.method} {request.url}"
    return line if request.body is None else f"{line} -d {gotext.quote(request.body)}"


def connect(context: Context) -> Cluster:
    """A cluster for a command, synced unless --no-sync; exits when it cannot be."""
    cluster = connect_unsynced(context, quiet=True)
    given = ",".join(cluster.endpoints)
    cluster.prints_curl = context.debugs
    if not context.globals.boolean("no-sync"):
        if context.debugs:
            context.warn(f"start to sync cluster using endpoints({given})")
        try:
            cluster.sync()
        except NoEndpoints as failure:
            context.warn("etcd cluster has no published client endpoints.")
            context.warn(
                f"Try '--no-sync' if you want to access non-published client endpoints({given})."
            )
            raise failed(context, failure) from None
        except Failure as failure:
            # etcdctl goes on after any other failure, with the endpoints that it was given.
            if failure.connection:
                raise failed(context, failure, BAD_CONNECTION) from None
        if context.debugs:
            context.warn(f"got endpoints({','.join(cluster.endpoints)}) after sync")
    if context.debugs:
        name_endpoints(context, cluster)
    return cluster


def connect_unsynced(context: Context, *, quiet: bool = False) -> Cluster:
    """A cluster of the endpoints that were given; exits for bad ones, files and passwords."""
    try:
        endpoints = [gourl.parse(text) for text in _endpoints(context)]
        exchanger = exchanger_of(context)
    except (BadURL, Failure) as failure:
        raise context.fatal(str(failure)) from None
    user, password = _credentials(context)
    cluster = Cluster(context, endpoints, exchanger)
    if user:
        cluster.authenticate(user, password)
    if context.debugs and not quiet:
        name_endpoints(context, cluster)
        cluster.prints_curl = True
    return cluster


def name_endpoints(context: Context, cluster: Cluster) -> None:
    """What --debug says."""
    context.warn(f"Cluster-Endpoints: {', '.join(cluster.endpoints)}")


def failed(context: Context, failure: Failure, code: int = SERVER_ERROR) -> Exit:
    """The end of a key command that failed; the caller raises it."""
    end = context.failed(str(failure), code)
    if isinstance(failure, Unavailable):
        context.warn(failure.detail)
    return end


def _endpoints(context: Context) -> list[str]:
    """Raises BadURL and Failure."""
    found = _discovered(context)
    if not found:
        names = (("endpoints", "ENDPOINTS"), ("endpoint", "ENDPOINT"), ("peers", "PEERS"))
        given = [context.from_flag_or_env(flag, f"ETCDCTL_{name}") for flag, name in names]
        found = next(filter(None, given), DEFAULT_ENDPOINTS).split(",")
    urls = [gourl.parse(text) for text in found]
    return [str(url if url.scheme else replace(url, scheme="http")) for url in urls]


def _discovery(context: Context) -> tuple[str, bool]:
    """The domain of --discovery-srv, and whether its insecure records count."""
    domain = context.from_flag_or_env("discovery-srv", "ETCDCTL_DISCOVERY_SRV")
    insecure = context.globals.boolean("insecure-discovery")
    return domain, insecure or bool(context.env.get("ETCDCTL_INSECURE_DISCOVERY", ""))


def _discovered(context: Context) -> list[str]:
    domain, insecure = _discovery(context)
    if not domain:
        return []
    from pyetcd.cli import srv

    service = context.env.get("ETCDCTL_DISCOVERY_SRV_NAME", "")
    try:
        found = srv.endpoints(domain, service, srv.name_servers())
    except srv.LookupFailure as failure:
        raise Failure(str(failure)) from None
    if insecure:
        return found
    for endpoint in found:
        if endpoint.startswith("http://"):
            quoted = gotext.quote(endpoint.encode())
            context.warn(f"ignoring discovered insecure endpoint {quoted}")
    return [endpoint for endpoint in found if not endpoint.startswith("http://")]


def exchanger_of(context: Context) -> Exchanger:
    """What the flags say about TLS and time; raises Failure for files that do not do."""
    cert, key, ca = (
        context.from_flag_or_env(f"{part}-file", f"ETCDCTL_{part.upper()}_FILE")
        for part in ("cert", "key", "ca")
    )
    if cert or key or ca:
        from pyetcd.cli.dial import BadSettings, Settings, check_files

        try:
            check_files(Settings([], 0, 0, 0, cert_file=cert, key_file=key, ca_file=ca))
        except BadSettings as failure:
            raise Failure(failure.text) from None
    domain, insecure = _discovery(context)
    total_s = context.globals.integer("total-timeout") / 1e9
    dial_s = total_s if total_s and total_s < DIAL_TIMEOUT_S else DIAL_TIMEOUT_S
    return Exchanger(
        Trust(cert, key, ca, "" if insecure else domain),
        header_timeout_s=context.globals.integer("timeout") / 1e9,
        dial_timeout_s=dial_s,
        env=context.env,
    )


def _credentials(context: Context) -> tuple[str, str]:
    given = context.from_flag_or_env("username", "ETCDCTL_USERNAME")
    if not given:
        return "", ""
    user, colon, password = given.partition(":")
    return user, password if colon else context.ask_password("Password: ")
