"""Pipes between two processes: a thousand numbers are under way at every moment."""
import os
import struct

import health

NUMBER = struct.Struct("<Q")
UNDER_WAY = 1000

to_child_r, to_child_w = os.pipe()
to_parent_r, to_parent_w = os.pipe()


def send(descriptor, number):
    os.write(descriptor, NUMBER.pack(number))


def receive(descriptor, expected):
    (number,) = NUMBER.unpack(os.read(descriptor, NUMBER.size))
    health.expect(number, expected, "next number in the pipe")


def child(number):
    receive(to_child_r, number)
    send(to_parent_w, number)


def parent(number):
    send(to_child_w, number)
    if number >= UNDER_WAY:
        receive(to_parent_r, number - UNDER_WAY)


health.announce("pipes-parent", "pipes-child")
if os.fork() == 0:
    health.repeat("pipes-child", child, pause_s=0.001)
health.repeat("pipes-parent", parent, pause_s=0.001)
