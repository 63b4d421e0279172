"""Every bound of the listener in one frozen value, each with its reason and what happens when full.

`docs/limits.md` is the table for operators. A limit is a number here and nowhere else: the codecs
take a `Limits` and have no constants of their own beyond what the RFCs fix.
"""

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Limits:
    """Defaults are those of a client port; a peer port raises the body caps."""

    # Messages. etcd adds 512 KiB of overhead to --max-request-bytes (embed: grpcOverheadBytes), so
    # this is never below one frame, which unary.py relies on.
    request_bytes_max: int = 2 * MIB  # larger: RESOURCE_EXHAUSTED before the body is read
    connections_max: int = 10_000  # one more is closed at once
    sniffing_per_host_max: int = 1024  # connections without a first byte; one more is closed

    handshakes_per_turn: int = 8  # TLS: begun in one turn of the loop; the others wait

    # Deadlines of a connection.
    sniff_timeout_s: float = 10.0  # the TLS handshake; then the first bytes
    blocked_timeout_s: float = 60.0  # stream or socket that takes nothing: reset, then closed
    request_timeout_s: float = 60.0  # an unary request that does not end: reset
    keepalive_interval_s: float = 7200.0  # silent this long: we ping
    keepalive_timeout_s: float = 20.0  # no answer to our ping: closed
    keepalive_min_time_s: float = 5.0  # pings closer than this are strikes (etcd: 5 s)
    keepalive_idle_min_time_s: float = 7200.0  # the same while no stream is open
    ping_strikes_max: int = 2  # one more: GOAWAY ENHANCE_YOUR_CALM "too_many_pings"

    # HTTP/2: what a peer may make us hold or do.
    streams_max: int = 1000  # open streams and running handlers; one more: REFUSED_STREAM
    header_list_bytes_max: int = 64 * KIB  # decoded, 32 per field included (RFC 9113 6.5.2)
    header_fields_max: int = 128  # against one-octet references to tiny fields
    header_block_bytes_max: int = 64 * KIB  # HEADERS and CONTINUATION together
    continuations_max: int = 16  # frames of one block; one more: GOAWAY
    settings_entries_max: int = 32  # in one frame; one more: GOAWAY
    resets_burst: int = 1000  # stream resets, theirs or caused by them: GOAWAY when spent
    resets_per_s: float = 33.0
    oddities_burst: int = 1000  # SETTINGS, PRIORITY and unknown frames: GOAWAY when spent
    oddities_per_s: float = 33.0
    empty_frames_burst: int = 100  # frames without a byte and without an end: GOAWAY when spent
    empty_frames_per_s: float = 1.0
    control_replies_max: int = 100  # waiting while the socket is full: stop reading

    # HTTP/2: bytes held for a connection.
    connection_window_bytes: int = 4 * MIB  # credit given back as soon as data is received
    received_bytes_max: int = 32 * MIB  # unfinished or unread requests: RESOURCE_EXHAUSTED
    send_quantum_bytes: int = 16 * KIB  # DATA of one stream before the next one's turn
    stream_send_low_bytes: int = 64 * KIB  # drain() waits above it (grpc-go: defaultWriteQuota)
    stream_send_bytes_max: int = 16 * MIB  # a stream's own queue, or one message: reset
    send_soft_bytes_max: int = 16 * MIB  # a connection's queue: new requests wait
    send_bytes_max: int = 48 * MIB  # a reply beyond it: RESOURCE_EXHAUSTED
    received_bytes_total_max: int = 512 * MIB  # of all connections: as received_bytes_max
    send_bytes_total_max: int = 512 * MIB  # of all connections: as send_bytes_max
    write_bytes_per_turn: int = 128 * KIB  # then the other connections have their turn

    # HTTP/1.1.
    http_header_bytes_max: int = 64 * KIB  # request line and fields: 431
    http_header_fields_max: int = 128  # 431
    http_body_bytes_max: int = 4 * MIB  # unless the route says otherwise: 413
    http_header_timeout_s: float = 10.0  # from the first byte of a request: 408
    http_body_timeout_s: float = 60.0  # a body that stands still: 408
    http_idle_timeout_s: float = 300.0  # keep-alive without a request: closed
    http_pipeline_bytes: int = 8 * KIB  # parsed ahead of an unfinished answer, then reading stops
    http_send_low_bytes: int = 256 * KIB  # unread answers: no further request is parsed
    http_send_bytes_max: int = 64 * MIB  # a streaming response nobody reads: closed

    @property
    def stream_window_bytes(self) -> int:
        """One whole message fits, so that an unary request never waits for a WINDOW_UPDATE."""
        return self.request_bytes_max + 64 * KIB
