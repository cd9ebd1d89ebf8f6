"""A TCP echo server: every connection sends the numbers from 0 on, a line each, and gets each back exactly once.

With several workers it is a pre-forking server: processes that share the listening socket, and memory in which each keeps its account.
"""
import argparse
import mmap
import os
import selectors
import socket
import time

import health

ROUND_S = 0.02
PAGE = mmap.PAGESIZE
# Of shared memory, for each worker: what it answered last lies in there in turn.
ACCOUNT = 16 * PAGE

parser = argparse.ArgumentParser()
parser.add_argument("--address", default="", help="address to listen on; all of them by default")
parser.add_argument("--port", type=int, default=7000)
parser.add_argument("--workers", type=int, default=1, help="processes that answer")
parser.add_argument("--round", type=float, default=ROUND_S, help="seconds from one report to the next")
options = parser.parse_args()

listener = socket.create_server((options.address, options.port), backlog=64)
listener.setblocking(False)
accounts = mmap.mmap(-1, options.workers * ACCOUNT)


class Worker:
    def __init__(self, number):
        self.account = number * ACCOUNT
        self.answered = 0
        self.selector = selectors.DefaultSelector()
        self.selector.register(listener, selectors.EVENT_READ)
        # Of each connection: the number that must come next, and the beginning of a line whose rest has not come yet.
        self.states = {}

    def accept(self):
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return  # another worker was quicker
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.states[connection] = (0, b"")
        self.selector.register(connection, selectors.EVENT_READ)

    def answer(self, connection):
        received = connection.recv(65536)
        if not received:
            self.forget(connection)
            return
        expected, rest = self.states[connection]
        *lines, rest = (rest + received).split(b"\n")
        for line in lines:
            health.expect(line, b"%d" % expected, "next line of a connection")
            expected += 1
            self.enter()
        self.states[connection] = (expected, rest)
        connection.sendall(b"".join(line + b"\n" for line in lines))

    def place(self, number):
        return self.account + number % (ACCOUNT // PAGE) * PAGE

    def enter(self):
        self.answered += 1
        accounts[self.place(self.answered) : self.place(self.answered) + 8] = self.answered.to_bytes(8, "little")

    def forget(self, connection):
        self.selector.unregister(connection)
        connection.close()
        del self.states[connection]

    def serve(self, timeout):
        for key, _ in self.selector.select(timeout):
            if key.fileobj is listener:
                self.accept()
                continue
            try:
                self.answer(key.fileobj)
            except ConnectionError:
                self.forget(key.fileobj)  # the client has gone; whether it should have is its own to tell

    def verify(self, number):
        deadline = time.monotonic() + options.round
        while (left := deadline - time.monotonic()) > 0:
            self.serve(left)
        for entry in range(max(1, self.answered - ACCOUNT // PAGE + 1), self.answered + 1):
            found = int.from_bytes(accounts[self.place(entry) : self.place(entry) + 8], "little")
            health.expect(found, entry, "entry of an account")


names = ["echo", *("echo-%d" % number for number in range(1, options.workers))]
health.announce(*names)
for number in range(1, options.workers):
    if os.fork() == 0:
        health.repeat(names[number], Worker(number).verify, pause_s=0)
health.repeat(names[0], Worker(0).verify, pause_s=0)
