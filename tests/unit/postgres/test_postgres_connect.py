"""A connection that breaks while it is being made: one clear error, and nothing left open."""

from __future__ import annotations

import gc
import socket
import struct
import threading
import warnings
from contextlib import closing

import pytest

from raypipe.errors import Unavailable
from raypipe.sources.postgres.address import parse_address
from raypipe.sources.postgres.connect import Session

CONNECTIONS = 20


def offer_encryption_and_reset(listener: socket.socket) -> None:
    for _ in range(CONNECTIONS):
        accepted, _ = listener.accept()
        with accepted:
            accepted.recv(8)
            accepted.sendall(b"S")
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_a_server_that_resets_before_the_handshake_leaves_no_socket_open():
    pytest.importorskip("pg8000")
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        server = threading.Thread(target=offer_encryption_and_reset, args=(listener,))
        server.start()
        address = parse_address("shop", f"postgresql://u:p@127.0.0.1:{listener.getsockname()[1]}/d?sslmode=require")
        with warnings.catch_warnings(record=True) as complaints:
            warnings.simplefilter("always")
            for _ in range(CONNECTIONS):
                with pytest.raises(Unavailable):
                    Session(address, "test")
            gc.collect()
        server.join()
    assert not [str(each.message) for each in complaints if each.category is ResourceWarning]
