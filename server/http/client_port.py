"""HTTP/1.1 on the client port."""

import json

from pyetcd.proto.errors import EtcdError
from pyetcd.server.facts import Facts
from pyetcd.server.http.peer_port import version_body
from pyetcd.server.wire.http1 import HttpRequest, HttpResponder, HttpService


def client_service(facts: Facts) -> HttpService:
    def handle(request: HttpRequest, responder: HttpResponder) -> None:
        if request.path == "/version":
            return responder.send(200, {"Content-Type": "application/json"}, version_body(facts))
        if request.path == "/health":

            def done(error: EtcdError | None) -> None:
                healthy = "true" if error is None else "false"
                reason = "" if error is None else f"RANGE ERROR:{error.text}"
                body = json.dumps({"health": healthy, "reason": reason}).encode()
                responder.send(200 if error is None else 503, {}, body)

            return facts.linearizable_read(done)
        return responder.send(404, {}, b"404 page not found\n")

    return HttpService(handle)
