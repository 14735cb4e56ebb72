"""Becomes a server that dies with its parent: gives up root, asks the kernel for the signal, then executes the command.

It is run as a script, because a preexec_fn may deadlock in a process with threads. Setting the user clears the request
for the signal, hence the order.
"""

import ctypes
import os
import pwd
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: str, user: str, *command: str) -> None:
    """parent is the pid to die with, or 0 for none; user is whom to become, or empty for nobody else."""
    if user:
        entry = pwd.getpwnam(user)
        os.initgroups(user, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    if parent != "0" and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != int(parent):
            sys.exit(f"the process {parent} that wanted {command[0]} is gone")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
