"""Unix sockets: a named stream, datagrams with their boundaries, and a listener that takes new connections."""
import os
import socket

import health

PATH = "/data/stream"
ABSTRACT = "\0dmigrate-listener"
UNDER_WAY = 100


def datagram(number):
    return b"%d " % number + b"x" * (number % 50)


if os.path.exists(PATH):
    os.unlink(PATH)
listener = socket.socket(socket.AF_UNIX)
listener.bind(PATH)
listener.listen()
visitors = socket.socket(socket.AF_UNIX)
visitors.bind(ABSTRACT)
visitors.listen()
datagrams_child, datagrams_parent = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)


def serve():
    stream, _ = listener.accept()
    lines = stream.makefile("rb")

    def verify(number):
        health.expect(lines.readline(), b"%d\n" % number, "next line of the stream")
        datagrams_child.send(datagram(number))

    health.repeat("unix-server", verify, pause_s=0.002)


def call():
    stream = socket.socket(socket.AF_UNIX)
    stream.connect(PATH)

    def verify(number):
        stream.send(b"%d\n" % number)
        if number >= UNDER_WAY:
            health.expect(datagrams_parent.recv(100), datagram(number - UNDER_WAY), "next datagram")
        with socket.socket(socket.AF_UNIX) as visit:
            visit.connect(ABSTRACT)
            accepted, _ = visitors.accept()
            with accepted:
                accepted.send(b"%d" % number)
            health.expect(visit.recv(100), b"%d" % number, "answer to a new connection")

    health.repeat("unix-client", verify, pause_s=0.002)


health.announce("unix-server", "unix-client")
if os.fork() == 0:
    serve()
call()
