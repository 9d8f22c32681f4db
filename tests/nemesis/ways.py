"""Ways through the network that can be cut, reset, made slow, or made to swallow everything (half-open)."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

_PART = 1 << 16

T = TypeVar("T")


class Way:
    """One port of 127.0.0.1 that leads to another; made by ``Ways.to``.

    Attributes:
        port: To connect to.
        withheld: Bytes that came while the way hung, and waited.
        slowed: Bytes that were carried slowly.
    """

    def __init__(self, ways: Ways, target: int) -> None:
        self._ways = ways
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._healthy = asyncio.Event()
        self._healthy.set()
        self._bytes_per_s = 0
        self.port = 0
        self.withheld = 0
        self.slowed = 0

    async def listen(self) -> asyncio.Server:
        """Takes connections from now on."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    def cut(self) -> int:
        """Ends every connection; returns how many there were."""
        return self._ways.call(lambda: self._end(resets=False))

    def reset(self) -> int:
        """Both sides of every connection see a reset; returns how many there were."""
        return self._ways.call(lambda: self._end(resets=True))

    def hang(self) -> None:
        """Nothing passes any more, and nobody is told: neither old connections nor new ones."""
        self._ways.call(self._healthy.clear)

    def heal(self) -> None:
        """What was withheld passes, and all that follows at full speed."""

        def mend() -> None:
            self._bytes_per_s = 0
            self._healthy.set()

        self._ways.call(mend)

    def slow(self, bytes_per_s: int) -> None:
        """Each direction of each connection carries no more than this."""

        def narrow() -> None:
            self._bytes_per_s = bytes_per_s

        self._ways.call(narrow)

    def _end(self, *, resets: bool) -> int:
        ended = len(self._writers) // 2
        for writer in list(self._writers):
            sock = writer.get_extra_info("socket")
            if resets and sock is not None:
                with suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        return ended

    async def _serve(self, near: asyncio.StreamReader, to_near: asyncio.StreamWriter) -> None:
        try:
            await self._healthy.wait()
            far, to_far = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            to_near.transport.abort()
            return
        both = {to_near, to_far}
        self._writers |= both
        try:
            tasks = [asyncio.create_task(self._carry(near, to_far)), asyncio.create_task(self._carry(far, to_near))]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            self._writers -= both
            for writer in both:
                writer.transport.abort()

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while part := await source.read(_PART):
                if not self._healthy.is_set():
                    self.withheld += len(part)
                    await self._healthy.wait()
                while self._bytes_per_s and part:
                    target.write(part[: self._bytes_per_s // 20])
                    self.slowed += len(part[: self._bytes_per_s // 20])
                    part = part[self._bytes_per_s // 20 :]
                    await asyncio.sleep(1 / 20)
                target.write(part)
                await target.drain()


class Ways:
    """All ways of a test, served by one thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._servers: list[asyncio.Server] = []
        self._ways: list[Way] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="ways", daemon=True)
        self._thread.start()

    def to(self, port: int) -> Way:
        """A new way to a port of 127.0.0.1, open or not yet."""

        async def make() -> Way:
            way = Way(self, port)
            self._servers.append(await way.listen())
            self._ways.append(way)
            return way

        return self._run(make())

    def call(self, function: Callable[[], T]) -> T:
        """Runs a function in the thread."""

        async def run() -> T:
            return function()

        return self._run(run())

    def close(self) -> None:
        """Ends every connection and the thread."""
        for way in self._ways:
            way.heal()

        async def end() -> None:
            for server in self._servers:
                server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self._run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=60)
