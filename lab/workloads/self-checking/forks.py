"""A family of processes: ids that stay, children that come and go, one that has ended and was not waited for yet."""
import os

import health

def grandchild():
    def verify(number):
        health.expect((os.getpid(), os.getppid(), os.getsid(0), os.getpgid(0)), GRANDCHILD_IDS, "ids of the grandchild")

    health.repeat("forks-grandchild", verify)


def spawn(code):
    """Starts a child that ends at once with `code`."""
    child = os.fork()
    if child == 0:
        os._exit(code)
    return child


def state_of(process):
    with open("/proc/%d/stat" % process) as stat:
        return stat.read().rpartition(")")[2].split()[0]


zombie = spawn(7)


def verify(number):
    global zombie
    health.expect(os.getpid(), OWN_ID, "process id")
    _, status = os.waitpid(zombie, 0)
    health.expect(os.waitstatus_to_exitcode(status), 7 if number == 0 else (number - 1) % 100, "exit code of a child")
    zombie = spawn(number % 100)
    os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
    health.expect(state_of(zombie), "Z", "state of a child that has ended")


OWN_ID = os.getpid()
health.announce("forks", "forks-grandchild")
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setpgid(0, 0)
        GRANDCHILD_IDS = (os.getpid(), os.getppid(), os.getsid(0), os.getpgid(0))
        grandchild()
    os.wait()
health.repeat("forks", verify)
