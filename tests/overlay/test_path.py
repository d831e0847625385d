"""What the kernel says of a connection's path: on loopback, and on the lab where one is cut."""

import socket
from typing import cast

import pytest
import trio
from trio.socket import SocketType

from bench.netlab.testing import labs, within
from overlay.path import give_up_on, is_cut, watch


async def test_a_reader_that_does_not_read_is_not_cut_off() -> None:
    listener, *_ = await trio.open_tcp_listeners(0, host="127.0.0.1")
    near = await trio.open_tcp_stream(*listener.socket.getsockname())
    far = await listener.accept()
    watch(near.socket)
    with trio.move_on_after(0.2):
        while True:
            await near.send_all(bytes(65536))  # until both buffers are full
    assert not is_cut(near.socket)
    for stream in (near, far, listener):
        await stream.aclose()
    assert not is_cut(near.socket), "nor is one that is closed"


async def test_what_a_listener_accepts_is_given_up_as_it_says() -> None:
    listener, *_ = await trio.open_tcp_listeners(0, host="127.0.0.1")
    give_up_on(listener.socket)
    near = await trio.open_tcp_stream(*listener.socket.getsockname())
    far = await listener.accept()
    assert far.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert far.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) > 0
    for stream in (near, far, listener):
        await stream.aclose()


@pytest.mark.netns
@pytest.mark.slow
def test_a_cut_is_seen_where_something_was_sent_and_so_is_its_end() -> None:
    with labs() as make:
        lab = make(hosts=2, preset="lan")
        one, other = lab.hosts
        server = other.inside(lambda: socket.create_server((other.address, 5000)))
        near = one.inside(lambda: socket.create_connection((other.address, 5000), 30))
        far, _ = server.accept()
        with server, near, far:
            sock = cast("SocketType", near)
            near.send(b"hello")
            assert far.recv(100) == b"hello"
            assert not is_cut(sock)
            lab.cut(one, other)
            near.send(b"into the void")
            within(60, lambda: is_cut(sock), lab.status)
            lab.heal()
            within(60, lambda: not is_cut(sock), lab.status)
            assert far.recv(100) == b"into the void"
