"""An encrypted socket that takes many records from the kernel at once.

A walsender makes one TLS record of every message, a hundred bytes each. ``ssl.SSLSocket`` asks the kernel twice for
each of them, which then is most of a reader's work. Here the kernel is asked for a quarter of a mebibyte, and the
standard library decrypts the records out of memory (https://docs.python.org/3/library/ssl.html#memory-bio-support).
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from typing import Any

_RAW_BYTES = 256 << 10


class TlsSocket(socket.socket):
    """A connected socket after its handshake; reads and writes as any other, timeouts included. Used by one thread.

    Args:
        sock: Connected, with its timeout; the new object takes it over, and closes it if the handshake fails.
        context: What is checked of the other side.
        hostname: It is asked for.

    Raises:
        ssl.SSLError: no encryption that both sides accept, or a certificate that does not pass the checks.
        OSError: the connection broke, or nothing came in time.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, hostname: str) -> None:
        timeout = sock.gettimeout()
        super().__init__(fileno=sock.detach())
        self.settimeout(timeout)
        self._raw = bytearray(_RAW_BYTES)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._unsent = b""
        try:
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=hostname)
            self._shake_hands()
        except BaseException:
            self.close()
            raise

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:  # noqa: ARG002
        """As any socket's; gives as many records as there are and fit. ``flags`` is ignored."""
        room = memoryview(buffer).cast("B")
        room = room[: nbytes or len(room)]
        got = 0
        while got < len(room):
            try:
                count = self._tls.read(len(room) - got, room[got:])
            except ssl.SSLWantReadError:
                if got or not self._fill():
                    break
                continue
            if not count:
                break  # the other side said goodbye
            got += int(count)
        return got

    def recv(self, bufsize: int, flags: int = 0) -> bytes:  # noqa: ARG002
        """As any socket's."""
        buffer = bytearray(bufsize)
        return bytes(memoryview(buffer)[: self.recv_into(buffer)])

    def send(self, data: Any, flags: int = 0) -> int:  # noqa: ARG002
        """As any socket's: what it takes of the data will be sent, if need be by the next call."""
        self._flush()
        taken = self._tls.write(data)
        with suppress(BlockingIOError):
            self._flush()
        return taken

    def sendall(self, data: Any, flags: int = 0) -> None:  # noqa: ARG002
        """As any socket's."""
        rest = memoryview(data).cast("B")
        while rest:
            rest = rest[self.send(rest) :]
        self._flush()

    def _shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                if not self._fill():
                    raise ConnectionResetError("the server closed the connection") from None
            except ssl.SSLError:
                with suppress(OSError):
                    self._flush()  # the alert that says why we refuse
                raise
            else:
                self._flush()
                return

    def _fill(self) -> bool:
        """Takes what the kernel has, waiting as the timeout says; False at the end of the stream."""
        if self._unsent or self._outgoing.pending:
            with suppress(BlockingIOError):
                self._flush()  # the other side may wait for it
        count = super().recv_into(self._raw)
        self._incoming.write(memoryview(self._raw)[:count])
        return count > 0

    def _flush(self) -> None:
        self._unsent += self._outgoing.read()
        while self._unsent:
            self._unsent = self._unsent[super().send(self._unsent) :]
