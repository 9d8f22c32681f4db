"""Ports that a server will listen on are nobody else's until then."""

from __future__ import annotations

import os
import socket

from cluster.services.ports import FIRST, LAST, claimed_ports, is_free


def test_claimed_ports_are_given_to_one_caller_at_a_time() -> None:
    with claimed_ports(200) as mine, claimed_ports(200) as others:
        assert len({*mine, *others}) == 400


def test_claimed_ports_are_below_those_that_the_kernel_gives() -> None:
    with claimed_ports(5) as ports:
        assert all(FIRST <= port < LAST for port in ports)
    path = "/proc/sys/net/ipv4/ip_local_port_range"
    if os.path.exists(path):
        with open(path) as kernel:
            assert int(kernel.read().split()[0]) >= LAST


def test_a_port_that_somebody_listens_on_is_not_free() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert not is_free(listener.getsockname()[1])
