# ruff: noqa: F401
import ctypes
import errno
import fcntl
import glob
import mmap
import os
import resource
import signal
import socket
import stat
import struct
import sys
import threading
import time

C = ctypes.CDLL(None, use_errno=True)
C.syscall.restype = ctypes.c_long
C.mmap.restype = ctypes.c_void_p
C.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
C.shmat.restype = ctypes.c_void_p
C.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
NOWHERE = ctypes.c_void_p(-1).value
HERE = -100  # AT_FDCWD

# name: (number on x86_64, number on aarch64); None where the machine has no such call.
_NUMBERS = """
mount 165 40|umount2 166 39|pivot_root 155 41|chroot 161 51|mknodat 259 33|fchmodat 268 53|fchmodat2 452 452
chmod 90 -|mknod 133 -|setuid 105 146|setgid 106 144|setgroups 116 159|setresuid 117 147|setresgid 119 149
capset 126 91|ptrace 101 117|syslog 103 116|sched_setscheduler 144 119|sched_setattr 314 274|ioprio_set 251 30
personality 135 92|adjtimex 159 171|settimeofday 164 170|clock_settime 227 112|clock_adjtime 305 266|acct 163 89
swapon 167 224|swapoff 168 225|reboot 169 142|sethostname 170 161|setdomainname 171 162|iopl 172 -|ioperm 173 -
modify_ldt 154 -|init_module 175 105|delete_module 176 106|finit_module 313 273|kexec_load 246 104
kexec_file_load 320 294|quotactl 179 60|shmget 29 194|shmctl 31 195|semget 64 190|msgget 68 186|msgsnd 69 189
timer_create 222 107|add_key 248 217|request_key 249 218|keyctl 250 219|unshare 272 97|setns 308 268|clone 56 220
clone3 435 435|open_by_handle_at 304 265|name_to_handle_at 303 264|perf_event_open 298 241|userfaultfd 323 282
bpf 321 280|process_vm_readv 310 270|process_vm_writev 311 271|kcmp 312 272|seccomp 317 277|memfd_create 319 279
execveat 322 281|prlimit64 302 261|fanotify_init 300 262|io_uring_setup 425 425|pidfd_open 434 434
pidfd_getfd 438 438|pidfd_send_signal 424 424|open_tree 428 428|move_mount 429 429|fsopen 430 430|fsconfig 431 431
fsmount 432 432|fspick 433 433|openat2 437 437|process_madvise 440 440|mount_setattr 442 442|quotactl_fd 443 443
memfd_secret 447 447|process_mrelease 448 448|statmount 457 457|listmount 458 458|vmsplice 278 75|move_pages 279 239
mbind 237 235|migrate_pages 256 238|set_mempolicy 238 237|vhangup 153 58|lookup_dcookie 212 18|mlockall 151 230
mq_open 240 180|mq_unlink 241 181|rt_sigqueueinfo 129 138|tgkill 234 131|prctl 157 167|io_uring_register 427 427
setdomain 171 162|kill 62 129|uselib 134 -|remap_file_pages 216 234|get_mempolicy 239 236|open_tree_attr 467 467
"""
_COLUMN = 1 if os.uname().machine == "x86_64" else 2
NUMBER = {}
for _one in _NUMBERS.replace("\n", "|").split("|"):
    if _one:
        _words = _one.split()
        NUMBER[_words[0]] = None if _words[_COLUMN] == "-" else int(_words[_COLUMN])


def tell(word, what):
    sys.stdout.write(f"{word}:{what}\n".replace("\n", " ").strip() + "\n")
    sys.stdout.flush()


def got(what):
    tell("GOT", what)


def no(what):
    tell("NO", what)


def name_of(number):
    return errno.errorcode.get(number, str(number))


def call(name, *arguments):
    """A system call by name: its result, and the name of the error where it failed."""
    number = NUMBER[name]
    if number is None:
        return -1, "ENOSYS"
    ctypes.set_errno(0)
    result = C.syscall(ctypes.c_long(number), *arguments)
    return result, name_of(ctypes.get_errno()) if result < 0 else ""


def must_fail(name, *arguments):
    result, failed = call(name, *arguments)
    if result < 0:
        no(f"{name} {failed}")
    else:
        got(f"{name} gave {result}")
    return result


def refused(what, action, fine=lambda value: False):
    """Run an action that must raise OSError (or give something that is fine)."""
    try:
        value = action()
    except (OSError, ValueError) as error:
        no(f"{what} {error}")
        return None
    if fine(value):
        no(f"{what} gave {value!r}")
    else:
        got(f"{what} gave {value!r:.80}")
    return value


def read(path, size=4096):
    with open(path, "rb", buffering=0) as file:
        return file.read(size)


def no_read(*paths):
    for path in paths:
        refused(f"read {path}", lambda path=path: read(path, 64))


def no_write(*paths):
    for path in paths:
        refused(f"open {path} for writing", lambda path=path: os.close(os.open(path, os.O_WRONLY)) or path)


def outside():
    """Whether this program runs without a sandbox: then what harms the host is left undone."""
    try:
        return bool(read("@dir@/world", 1))
    except OSError:
        return False


def only_inside():
    if outside():
        got("not in a sandbox at all")
        os._exit(0)


def in_child(action):
    """Run an action in a child; its wait status."""
    child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException as error:
            no(f"child: {error!r}")
        os._exit(0)
    return os.waitpid(child, 0)[1]


def until_refused(what, step, most):
    """Take step after step until one is refused; how many were taken. most or more is too many."""
    count = 0
    try:
        while count < most:
            step(count)
            count += 1
    except (OSError, MemoryError, ValueError, RuntimeError, IndexError) as error:
        no(f"{what}: {error!r:.60} after {count}")
    else:
        got(f"{count} {what}")
    return count
