"""A TCP echo server: every connection sends the numbers from 0 on, a line each, and gets each back exactly once."""
import argparse
import selectors
import socket
import time

import health

ROUND_S = 0.02

parser = argparse.ArgumentParser()
parser.add_argument("--address", default="", help="address to listen on; all of them by default")
parser.add_argument("--port", type=int, default=7000)
options = parser.parse_args()

selector = selectors.DefaultSelector()
listener = socket.create_server((options.address, options.port), backlog=64)
selector.register(listener, selectors.EVENT_READ)
# Of each connection: the number that must come next, and the beginning of a line whose rest has not come yet.
states = {}


def accept():
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    states[connection] = (0, b"")
    selector.register(connection, selectors.EVENT_READ)


def answer(connection):
    received = connection.recv(65536)
    if not received:
        forget(connection)
        return
    expected, rest = states[connection]
    *lines, rest = (rest + received).split(b"\n")
    for line in lines:
        health.expect(line, b"%d" % expected, "next line of a connection")
        expected += 1
    states[connection] = (expected, rest)
    connection.sendall(b"".join(line + b"\n" for line in lines))


def forget(connection):
    selector.unregister(connection)
    connection.close()
    del states[connection]


def serve(timeout):
    for key, _ in selector.select(timeout):
        if key.fileobj is listener:
            accept()
            continue
        try:
            answer(key.fileobj)
        except ConnectionError:
            forget(key.fileobj)  # the client has gone; whether it should have is its own to tell


def verify(number):
    deadline = time.monotonic() + ROUND_S
    while (left := deadline - time.monotonic()) > 0:
        serve(left)


health.announce("echo")
health.repeat("echo", verify, pause_s=0)
