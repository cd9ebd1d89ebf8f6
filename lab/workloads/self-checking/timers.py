"""Time: an interval timer, a timer descriptor far from its end, sleeps that must not end early, a clock that must not go back."""
import os
import signal
import time

import health

HOUR = 3600
alarms = 0
clock = time.monotonic()


def on_alarm(*_):
    global alarms
    alarms += 1


signal.signal(signal.SIGALRM, on_alarm)
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
descriptor = os.timerfd_create(time.CLOCK_MONOTONIC)
os.timerfd_settime(descriptor, initial=HOUR, interval=60)
left = HOUR


def tick():
    """Reads the clock, which must not go back."""
    global clock
    now = time.monotonic()
    if now < clock:
        raise health.Wrong("the monotonic clock went back from %f to %f" % (clock, now))
    clock = now
    return now


def verify(number):
    global left
    began, alarms_before = tick(), alarms
    time.sleep(0.1)
    slept = tick() - began
    if slept < 0.1:
        raise health.Wrong("a sleep of 0.1 s took %f s" % slept)
    while alarms == alarms_before:
        signal.pause()
    left_before, (left, interval) = left, os.timerfd_gettime(descriptor)
    if not 0 < left < left_before:
        raise health.Wrong("%f s are left on the timer descriptor, %f s were before" % (left, left_before))
    health.expect(round(interval, 4), 60, "interval of the timer descriptor")
    (_, interval) = signal.getitimer(signal.ITIMER_REAL)
    health.expect(round(interval, 4), 0.01, "interval of the timer")


health.announce("timers")
health.repeat("timers", verify)
