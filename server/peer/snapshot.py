"""Whole keyspaces to and from peers: POST /raft/snapshot.

Strategy. The body is etcd's: 8 bytes length, the MsgSnap, then the database file. What etcd does
not send, and ignores when it is there, is `X-Pyetcd-Snapshot-SHA256`, the digest of the file.
Outgoing files are read, incoming ones written in a thread, in pieces of PIECE_BYTES.

Rules.
- One snapshot at a time each way. A second one to send fails at once, and raft asks again; a
  second one to receive is refused with 503, which the sender tells its raft as a failure.
- raft must hear `report_snapshot` exactly once for every MsgSnap, or it never sends anything to
  that follower again. `send` ends in exactly one report, on every path.
- A SQLite file goes to pyetcd members only: an etcd member would take it, fail to open it and
  never start again. In the other direction the installer refuses what is not a keyspace of ours.
- 204 is said when the file is durable under its final name, and then raft gets the message, not
  before. An upload that breaks leaves no file.
"""

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from struct import Struct
from typing import Final, Protocol

from pyetcd.raft import codec as raft_codec
from pyetcd.raft.codec import decode_message
from pyetcd.raft.types import Message, MsgType
from pyetcd.server.logs import Log
from pyetcd.server.peer.activity import PeerCounters
from pyetcd.server.peer.client import HttpClient, Unreachable
from pyetcd.server.peer.codec import FRAME_BYTES_MAX, encode_frame
from pyetcd.server.peer.handshake import TO_MISMATCH, Identity, Refusal
from pyetcd.server.peer.peer import MemberRemoved, Peer, RaftHandler, check_post, surface
from pyetcd.store import failpoints
from pyetcd.store.snapshot import Copy, SnapshotFailed

PIECE_BYTES: Final = 1024 * 1024
# A peer that takes no piece for this long is given up.
PIECE_TIMEOUT_S: Final = 30.0
# After the last byte the receiver fsyncs and verifies: a minute, and one more for each 2 GB.
ANSWER_TIMEOUT_S: Final = 60.0
ANSWER_BYTES_PER_S: Final = 32 * 1024 * 1024
# Received and not yet written; above it the connection is not read.
UNWRITTEN_BYTES_MAX: Final = 8 * 1024 * 1024
SHA256_HEADER: Final = "X-Pyetcd-Snapshot-SHA256"
_U64 = Struct(">Q")


class Installer(Protocol):
    """Where received files go. Both calls block and run in a thread."""

    def temporary_path(self, index: int) -> str:
        """A new file for a snapshot at `index`, on the disk of the keyspace."""

    def keep(self, temporary: str, index: int, sha256: bytes | None) -> str:
        """Verify the file and make it durable under the name returned. SnapshotFailed if it is
        not what was sent, or no keyspace of ours."""


class SnapshotSender:
    """Sends files to peers, one at a time."""

    def __init__(
        self, *, identity: Identity, client: HttpClient, handler: RaftHandler, log: Log
    ) -> None:
        self._identity = identity
        self._client = client
        self._handler = handler
        self._log = log
        self._task: asyncio.Task[None] | None = None

    @property
    def is_busy(self) -> bool:
        return self._task is not None

    def send(
        self, peer: Peer | None, message: Message, copy: Copy, done: Callable[[], None]
    ) -> None:
        """Send `message` with the file of `copy` and report how it went; `done` says that the
        file is no longer needed."""
        assert message.type is MsgType.SNAP and message.snapshot is not None
        if peer is None or self.is_busy or not peer.activity.is_pyetcd:
            if peer is not None and not self.is_busy:
                self._log.warn(
                    "cannot send a snapshot to a member that does not run pyetcd",
                    remote_peer_id=f"{message.to:x}",
                )
            self._handler.report_snapshot(message.to, ok=False)
            done()
            return
        task = asyncio.get_running_loop().create_task(self._run(peer, message, copy, done))
        task.add_done_callback(surface)
        self._task = task

    async def stop(self) -> None:
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(
        self, peer: Peer, message: Message, copy: Copy, done: Callable[[], None]
    ) -> None:
        assert message.snapshot is not None
        fields = {
            "remote_peer_id": f"{message.to:x}",
            "snapshot_index": message.snapshot.meta.index,
            "bytes": copy.size_bytes,
        }
        ok = False
        url = peer.picker.pick()
        counters = peer.counters
        counters.snapshots_sending += 1
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        self._log.info("sending database snapshot", **fields)
        try:
            failpoints.hit("snapshotBeforeSend", OSError)
            await self._upload(url, message, copy)
            ok = True
            peer.activity.activate(loop.time())
            counters.snapshot_sent_total += 1
            counters.sent_bytes_total += copy.size_bytes
            counters.snapshot_sends.observe(loop.time() - began_s)
            self._log.info("sent database snapshot", **fields)
        except (Unreachable, OSError) as error:
            self._log.warn("failed to send database snapshot", **fields, error=str(error))
            peer.picker.unreachable(url)
            peer.activity.deactivate("post", "sendMsgSnap", str(error))
            counters.snapshot_send_failures_total += 1
            counters.sent_failures_total += 1
            self._handler.report_unreachable(message.to)
            if isinstance(error, MemberRemoved):
                self._handler.local_removed()
        finally:
            counters.snapshots_sending -= 1
            self._task = None
            self._handler.report_snapshot(message.to, ok=ok)
            done()

    async def _upload(self, url: str, message: Message, copy: Copy) -> None:
        head = encode_frame(message)
        headers = {
            "Content-Type": "application/octet-stream",
            SHA256_HEADER: copy.sha256.hex(),
            **self._identity.request_headers(),
        }
        async with aclosing(_pieces(head, copy)) as pieces:
            response = await self._client.upload(
                url,
                "/raft/snapshot",
                headers=headers,
                length=len(head) + copy.size_bytes,
                chunks=pieces,
                answer_timeout_s=ANSWER_TIMEOUT_S + copy.size_bytes / ANSWER_BYTES_PER_S,
                progress_timeout_s=PIECE_TIMEOUT_S,
            )
        check_post(response)


async def _pieces(head: bytes, copy: Copy) -> AsyncGenerator[bytes, None]:
    yield head
    loop = asyncio.get_running_loop()
    left = copy.size_bytes
    # Not opened in a thread: who is cancelled while it opens would never learn what to close.
    with open(copy.path, "rb") as file:  # noqa: ASYNC230
        while left:
            piece = await loop.run_in_executor(None, file.read, min(PIECE_BYTES, left))
            if not piece:
                raise OSError(f"{copy.path} is shorter than {copy.size_bytes} bytes")
            left -= len(piece)
            yield piece


class SnapshotReceiver:
    """Takes files from peers, one at a time."""

    def __init__(
        self,
        *,
        member_id: int,
        installer: Installer,
        handler: RaftHandler,
        log: Log,
        counters_of: Callable[[int], PeerCounters] = lambda id: PeerCounters(),
    ) -> None:
        self.counters_of = counters_of
        # Told how many seconds it took to save a file that was kept, and its end of that: to
        # verify it and make it durable.
        self.save_took: Callable[[float], object] = _ignore
        self.keep_took: Callable[[float], object] = _ignore
        self.member_id = member_id
        self.installer = installer
        self.handler = handler
        self.log = log
        self._current: IncomingSnapshot | None = None

    def begin(
        self,
        headers: Mapping[str, str],
        *,
        pause: Callable[[], None],
        resume: Callable[[], None],
    ) -> "IncomingSnapshot | Refusal":
        """Where to put a body whose headers have passed the checks. `pause` is called when the
        connection should not be read for a while, `resume` when it should again."""
        if self._current is not None:
            return Refusal(503, "another snapshot is being received")
        digest = headers.get(SHA256_HEADER.lower(), "")
        try:
            sha256 = bytes.fromhex(digest) if digest else None
        except ValueError:
            return Refusal(400, "bad snapshot digest")
        self._current = IncomingSnapshot(self, sha256, pause, resume)
        return self._current

    def release(self, incoming: "IncomingSnapshot") -> None:
        if self._current is incoming:
            self._current = None

    async def stop(self) -> None:
        current = self._current
        if current is not None:
            current.abort()
            await current.ended.wait()


class IncomingSnapshot:
    """One body on its way to a file. `finish` or `abort` ends it, the first of them counts."""

    def __init__(
        self,
        receiver: SnapshotReceiver,
        sha256: bytes | None,
        pause: Callable[[], None],
        resume: Callable[[], None],
    ) -> None:
        self.message: Message | None = None
        self.error: Refusal | None = None
        self.ended = asyncio.Event()
        self._receiver = receiver
        self._sha256 = sha256
        self._pause = pause
        self._resume = resume
        self._loop = asyncio.get_running_loop()
        self._head = bytearray()
        self._file = _File()
        self._counters: PeerCounters | None = None  # of who sends it, once that is known
        self._began_s = self._loop.time()
        self._pieces: deque[bytes] = deque()
        self._unwritten_bytes = 0
        self._is_paused = False
        self._writing: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None

    def write(self, data: bytes) -> None:
        """More of the body. After an error the rest is thrown away."""
        if self.error is not None:
            return
        if self.message is None:
            self._head += data
            self._take_head()
        else:
            self._take_piece(data)

    def finish(self, answer: Callable[[Refusal | None], None]) -> None:
        """The body has ended: None is answered when the file is durable and raft has the
        message."""
        if self._ending is None:
            self._ending = self._loop.create_task(self._finish(answer))

    def abort(self) -> None:
        """The connection broke, or we stop."""
        self._fail(500, "the upload was broken off")
        if self._ending is None:
            self._ending = self._loop.create_task(self._end())

    # The head: length and message

    def _take_head(self) -> None:
        head = self._head
        if len(head) < 8:
            return
        size = _U64.unpack_from(head)[0]
        if size > FRAME_BYTES_MAX:
            self._fail(400, "failed to decode raft message (message too large)")
        elif len(head) >= 8 + size:
            rest = bytes(head[8 + size :])
            self._take_message(bytes(head[8 : 8 + size]))
            head.clear()
            if self.error is None:
                self._take_piece(rest)

    def _take_message(self, encoded: bytes) -> None:
        receiver = self._receiver
        try:
            message = decode_message(encoded)
        except raft_codec.CodecError as error:
            self._fail(400, f"failed to decode raft message ({error})")
            return
        if message.type is not MsgType.SNAP or message.snapshot is None:
            self._fail(400, "wrong raft message type")
        elif receiver.handler.is_removed(message.from_):
            self._fail(403, "cannot process message from removed member", is_json=True)
        elif message.to != receiver.member_id:
            self._fail(412, TO_MISMATCH)
        else:
            failpoints.hit("snapshotBeforeReceive")
            self.message = message
            self._counters = receiver.counters_of(message.from_)
            self._counters.snapshots_receiving += 1
            self._file.path = receiver.installer.temporary_path(message.snapshot.meta.index)
            receiver.log.info(
                "receiving database snapshot",
                remote_snapshot_sender_id=f"{message.from_:x}",
                incoming_snapshot_index=message.snapshot.meta.index,
            )

    # The file

    def _take_piece(self, data: bytes) -> None:
        self._pieces.append(data)
        self._unwritten_bytes += len(data)
        if self._unwritten_bytes > UNWRITTEN_BYTES_MAX and not self._is_paused:
            self._is_paused = True
            self._pause()
        if self._writing is None or self._writing.done():
            self._writing = self._loop.create_task(self._write_out())

    async def _write_out(self) -> None:
        while self._pieces and self.error is None:
            data = b"".join(self._pieces)
            self._pieces.clear()
            try:
                await self._loop.run_in_executor(None, self._file.append, data)
            except OSError as error:
                self._fail(500, f"failed to save KV snapshot ({error.strerror})")
            self._unwritten_bytes -= len(data)
            if self._unwritten_bytes <= UNWRITTEN_BYTES_MAX // 2:
                self._go_on()

    def _go_on(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._resume()

    # The end

    async def _finish(self, answer: Callable[[Refusal | None], None]) -> None:
        try:
            if self._writing is not None:
                await self._writing
            if self.message is None and self.error is None:
                self._fail(400, "failed to decode raft message (unexpected EOF)")
            if self.error is None:
                await self._keep()
        finally:
            await self._end()
        answer(self.error)

    async def _keep(self) -> None:
        """Durable first, then raft: what raft has taken it must find after a crash."""
        receiver, message = self._receiver, self.message
        assert message is not None and message.snapshot is not None
        index = message.snapshot.meta.index
        run = self._loop.run_in_executor
        received_s = self._loop.time()
        try:
            await run(None, self._file.close)
            kept = await run(None, receiver.installer.keep, self._file.path, index, self._sha256)
        except (SnapshotFailed, OSError) as error:
            self._fail(500, f"failed to save KV snapshot ({error})")
            return
        now_s = self._loop.time()
        receiver.keep_took(now_s - received_s)
        receiver.save_took(now_s - self._began_s)
        assert self._counters is not None
        self._counters.snapshot_received_total += 1
        self._counters.received_bytes_total += self._file.size_bytes
        self._counters.snapshot_receipts.observe(now_s - self._began_s)
        receiver.handler.snapshot_received(message, kept)

    async def _end(self) -> None:
        """Remove what was not kept, and let the next snapshot begin."""
        if self._writing is not None:
            await self._writing
        self._pieces.clear()
        counters, self._counters = self._counters, None
        if counters is not None:
            counters.snapshots_receiving -= 1
            if self.error is not None:
                counters.snapshot_receive_failures_total += 1
                counters.received_failures_total += 1
        await self._loop.run_in_executor(None, self._file.remove)
        self._receiver.release(self)
        self.ended.set()

    def _fail(self, status: int, text: str, *, is_json: bool = False) -> None:
        if self.error is None:
            self.error = Refusal(status, text, is_json)
            self._receiver.log.warn("failed to save incoming database snapshot", error=text)
        self._go_on()


def _ignore(seconds: float) -> None:
    return None


class _File:
    """The temporary file; its methods block and run in a thread, one at a time."""

    def __init__(self) -> None:
        self.path = ""
        self.size_bytes = 0
        self._fd = -1

    def append(self, data: bytes) -> None:
        if self._fd < 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._fd = os.open(self.path, flags, 0o600)
        self.size_bytes += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def remove(self) -> None:
        """Nothing is there to remove after the file was kept under another name."""
        self.close()
        if self.path:
            try:
                os.unlink(self.path)
            except FileNotFoundError:
                pass
