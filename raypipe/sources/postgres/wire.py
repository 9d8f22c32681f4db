"""Reads a PostgreSQL connection in COPY mode (logical replication, COPY TO STDOUT) in large gulps; sends status.

The server sends every message by itself. A reader that wakes for each one makes both sides switch context per message,
and that is what most readers spend their time on. So while there is a backlog the kernel is told to wake us only for
256 KiB (``SO_RCVLOWAT``); a quiet stream wakes us for a byte, so that a lone commit is not held back.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raypipe.errors import Corrupt, LimitExceeded, Unavailable
from raypipe.sources.postgres.frames import HEADER_BYTES, PADDING_BYTES, Bytes, Places, find_messages, message_bytes
from raypipe.sources.postgres.refusals import PostgresError, error_of

_BACKLOG_BYTES = 256 * 1024
# Received at once: there is a backlog. One transaction of a few hundred rows is none, and must not wait for company; in
# a backlog the server sends this much while one gulp is decoded.
_BUSY_BYTES = 64 * 1024
# 256 KiB come within 4 ms at half a million rows per second; when they do not, the backlog is over.
_LINGER_MS = 5
_SOCKET_BYTES = 4 << 20  # the server goes on sending while a gulp is decoded
_SEND_S = 30.0
_SILENT_MS = 60_000  # unacknowledged for this long: the other side is gone
# The server's own allocation limit; a message of the protocol cannot be longer.
_MESSAGE_BYTES = 1 << 30

_XLOG_DATA = b"w"
_COPY_DATA, _ERROR, _DONE, _READY = b"dEcZ"
_IGNORED = b"NSCA"  # notices, settings, the command's tag, notifications
_STATUS = struct.Struct("!cqqqqB")
_POSTGRES_EPOCH_US = 946_684_800_000_000


@dataclass(frozen=True, kw_only=True)
class Gulp:
    """Messages received together, in order.

    Attributes:
        buffer: Holds them, and ``PADDING_BYTES`` more; overwritten by the next gulp.
        at: Where the payload of each CopyData message begins.
        size: Bytes of each payload.
    """

    buffer: Bytes
    at: Places
    size: Places

    @property
    def bytes(self) -> int:
        """Of all payloads."""
        return int(self.size.sum())


class CopyStream:
    """The receiving side of COPY mode. Used by one thread.

    Args:
        sock: Connected and authenticated, plain or TLS; the server has just answered CopyBothResponse or
            CopyOutResponse. Non-blocking from now on.
        leftover: What somebody already read from the socket beyond that answer.
        buffer_bytes: To begin with; it grows for a message that is larger.
        mark: How most CopyData payloads begin: ``w`` in replication, the number of columns (two bytes) in a copy.
    """

    def __init__(
        self, sock: socket.socket, *, leftover: bytes = b"", buffer_bytes: int = 8 << 20, mark: bytes = _XLOG_DATA
    ) -> None:
        self._sock = sock
        self._mark = mark
        self._usual_bytes = max(buffer_bytes, len(leftover))
        self._reserve(self._usual_bytes)
        self._buffer[: len(leftover)] = np.frombuffer(leftover, np.uint8)
        self._begin, self._end = 0, len(leftover)
        self._unlooked = bool(leftover)  # what was left over may be whole messages, and all there will be
        self._failure: PostgresError | None = None
        self.finished = False
        self.last_heard_s = time.monotonic()
        sock.setblocking(False)
        self._tune()
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._low_water = 0
        self._wake_at(1)

    def gulp(self, timeout_s: float, max_bytes: int = 4 << 20) -> Gulp | None:
        """The next messages: what is there, or in a backlog about ``max_bytes``; None if nothing whole came in time.

        None also when the server has ended COPY mode (``finished``).

        Raises:
            Unavailable: the connection is closed, reset or dead.
            PostgresError: the server ended the stream with an error; what came before it was given out.
            LimitExceeded: a message longer than PostgreSQL can make.
        """
        deadline = time.monotonic() + timeout_s
        self._make_room()
        # An error may have come together with the end of COPY mode, and behind rows that were given out already.
        while self._failure is None and not self.finished:
            if not self._unlooked:
                self._receive(deadline, max_bytes)
            self._unlooked = False
            starts, end = find_messages(self._buffer, self._begin, self._end, self._mark)
            if len(starts):
                gulp = self._take(starts, end)
                if gulp is not None:
                    return gulp
            elif self._end - self._begin >= HEADER_BYTES:
                self._grow(message_bytes(self._buffer, self._begin))
            if time.monotonic() >= deadline:
                break
        if self._failure is not None:
            raise self._failure
        return None

    def send(self, payload: bytes) -> None:
        """Sends one CopyData message.

        Raises:
            Unavailable: the connection is closed, or takes nothing for half a minute.
        """
        self._send(b"d" + struct.pack("!i", len(payload) + 4) + payload)

    def end(self) -> None:
        """Asks the server to end COPY mode; go on with ``gulp`` until ``finished``."""
        self._send(b"c" + struct.pack("!i", 4))

    def release(self) -> socket.socket:
        """The socket, blocking again, for whoever speaks the ordinary protocol on it."""
        self._wake_at(1)
        self._sock.setblocking(True)
        return self._sock

    def _reserve(self, size: int) -> None:
        self._buffer = np.zeros(size + PADDING_BYTES, np.uint8)
        self._view = self._buffer.data

    def _room(self) -> int:
        return len(self._buffer) - PADDING_BYTES

    def _make_room(self) -> None:
        """Moves the incomplete message to the front; gives back what a large message made the buffer grow to."""
        rest = self._buffer[self._begin : self._end]
        if self._room() > self._usual_bytes >= len(rest):
            self._reserve(self._usual_bytes)
            self._buffer[: len(rest)] = rest
        elif self._begin:
            self._buffer[: len(rest)] = rest.copy()
        self._begin, self._end = 0, len(rest)

    def _grow(self, message: int) -> None:
        """Makes the buffer hold a message of this size and leaves room for the next ones."""
        if message > _MESSAGE_BYTES + 4096:
            raise LimitExceeded(
                f"PostgreSQL sent a message of {message} bytes; it cannot be longer than {_MESSAGE_BYTES}.",
                bytes=message,
            )
        if message <= self._room() - self._begin:
            return
        before = self._buffer[self._begin : self._end]
        self._reserve(message + (1 << 20))
        self._buffer[: len(before)] = before
        self._begin, self._end = 0, len(before)

    def _take(self, starts: Places, end: int) -> Gulp | None:
        """Handles what is no CopyData, and gives out what is."""
        self._begin = end
        bounds = np.append(starts, end)
        kinds = self._buffer[starts]
        data = kinds == _COPY_DATA
        if not data.all():
            for place in np.flatnonzero(~data).tolist():
                self._control(int(kinds[place]), self._buffer[bounds[place] + HEADER_BYTES : bounds[place + 1]])
        at = starts[data] + HEADER_BYTES
        if not len(at):
            return None
        return Gulp(buffer=self._buffer, at=at, size=np.diff(bounds)[data] - HEADER_BYTES)

    def _control(self, kind: int, payload: Bytes) -> None:
        if kind == _ERROR:
            self._failure = error_of(payload.tobytes())
        elif kind == _READY:
            self.finished = True
            self._wake_at(1)  # whoever speaks on this socket next waits for short answers
        elif kind != _DONE and kind not in _IGNORED:
            raise Corrupt(
                f"PostgreSQL sent a message of kind {kind} in COPY mode, where there is none.",
                remedy="Something between raypipe and the server changes what is sent.",
            )

    def _receive(self, deadline: float, max_bytes: int) -> None:
        """Receives until the stream is quiet or enough is there; waits until the deadline for the first byte."""
        held = self._end - self._begin
        self._recv()
        if self._end - self._begin == held:
            self._wake_at(1)
            if not self._wait(max(0, round((deadline - time.monotonic()) * 1000))):
                return
            self._recv()
        if self._end - self._begin - held < _BUSY_BYTES:
            return
        enough = min(max_bytes, self._room())
        while self._end - self._begin < enough:
            self._wake_at(_BACKLOG_BYTES)
            if not self._wait(_LINGER_MS):
                self._recv()
                return
            if not self._recv():
                return

    def _wait(self, timeout_ms: int) -> bool:
        return bool(self._poll.poll(timeout_ms))

    def _recv(self) -> bool:
        """Takes what the socket holds without waiting; tells whether that was anything."""
        began = self._end
        try:
            if self._end < self._room():
                got = self._sock.recv_into(self._view[self._end : self._room()])
                if got == 0:
                    raise _closed()
                self._end += got
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            raise _lost(error) from error
        if self._end > began:
            self.last_heard_s = time.monotonic()
        return self._end > began

    def _send(self, message: bytes) -> None:
        rest, deadline = memoryview(message), time.monotonic() + _SEND_S
        while rest:
            try:
                rest = rest[self._sock.send(rest) :]
            except (BlockingIOError, InterruptedError):
                writable = select.poll()
                writable.register(self._sock, select.POLLOUT)
                if time.monotonic() > deadline or not writable.poll(round(_SEND_S * 1000)):
                    raise Unavailable(
                        f"PostgreSQL took nothing from its connection for {_SEND_S:.0f} s.",
                        remedy="raypipe connects again; look at the network and at the server's load.",
                    ) from None
            except OSError as error:
                raise _lost(error) from error

    def _wake_at(self, low_water: int) -> None:
        if low_water != self._low_water:
            self._low_water = low_water
            with suppress(OSError):  # a kernel without it wakes us more often, no more
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, low_water)

    def _tune(self) -> None:
        options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
        if _largest_buffer() >= _SOCKET_BYTES:  # else asking ends the kernel's own growing, at less than it would give
            options.append((socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BYTES))
        if self._sock.family in (socket.AF_INET, socket.AF_INET6):
            options += [
                (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 20),
                (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
                (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
                (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENT_MS),
            ]
        for level, option, value in options:
            with suppress(OSError):
                self._sock.setsockopt(level, option, value)


def standby_status(
    *, written_lsn: int, flushed_lsn: int, applied_lsn: int, unix_us: int, asks_reply: bool = False
) -> bytes:
    """The payload that tells the server how far we are; it may forget what lies before ``flushed_lsn``."""
    return _STATUS.pack(b"r", written_lsn, flushed_lsn, applied_lsn, unix_us - _POSTGRES_EPOCH_US, int(asks_reply))


def _largest_buffer() -> int:
    """Bytes of a socket's buffer that the kernel lets a program ask for."""
    try:
        return int(Path("/proc/sys/net/core/rmem_max").read_text())
    except (OSError, ValueError):
        return _SOCKET_BYTES  # not Linux: it says by itself


def _closed() -> Unavailable:
    return Unavailable(
        "PostgreSQL closed the connection.", remedy="raypipe connects again; the server's log says why it did."
    )


def _lost(error: OSError) -> Unavailable:
    return Unavailable(
        "The connection to PostgreSQL broke.", remedy="raypipe connects again; look at the network.", cause=error
    )
