"""A timer descriptor that fires more often than it is read: at any moment it has fired already, and must go on all the same."""
import os
import time

import health

descriptor = os.timerfd_create(time.CLOCK_MONOTONIC)
os.timerfd_settime(descriptor, initial=0.01, interval=0.01)


def verify(number):
    time.sleep(0.05)
    os.read(descriptor, 8)


health.announce("overdue_timer")
health.repeat("overdue_timer", verify, pause_s=0)
