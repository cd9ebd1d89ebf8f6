"""Threads that hand a number round a ring; each keeps count in memory of its own."""
import threading

import health

THREADS = 8


class Ring:
    def __init__(self):
        self.token = 0
        self.changed = threading.Condition()

    def pass_on(self, place, lap):
        """Waits until the token comes to `place`, then hands it to the next."""
        with self.changed:
            self.changed.wait_for(lambda: self.token % THREADS == place)
            health.expect(self.token, lap * THREADS + place, "token")
            self.token += 1
            self.changed.notify_all()


ring = Ring()
own = threading.local()


def work(place):
    own.laps = 0

    def verify(number):
        health.expect(own.laps, number, "laps that thread %d counted" % place)
        ring.pass_on(place, number)
        own.laps += 1

    health.repeat("thread-%d" % place, verify)


health.announce(*("thread-%d" % place for place in range(THREADS)))
for place in range(1, THREADS):
    threading.Thread(target=work, args=(place,), daemon=True).start()
work(0)
