# ruff: noqa: E501  (programs keep their lines)
"""Programs that use up the machine: memory, processes, disk, descriptors, time, output, kernel objects."""

from tests.sandbox.escapes.case import (
    ANYHOW,
    ENDED,
    FINISHED,
    OK,
    STOPPED,
    Group,
    all_of,
    limit_is,
    signal_is,
)
from toolpost.sandbox.profile import MB, Control

CASES = Group("resources")
add = CASES.add
BRIEF = {"wall_s": 0.7}
MEMORY = all_of(limit_is("memory_bytes", "wall_s", "disk_bytes", "processes"))

add("forks", "forks without end", "while True:\n  try: os.fork()\n  except OSError: pass", ends=ENDED, limits=BRIEF)
add("forks-sh", "a shell's fork bomb", "f() { f | f & }; f; sleep 9", language="bash", ends=ANYHOW, limits=BRIEF)
add(
    "forks-dying",
    "children that fork as they die, while the program ends",
    """
for _ in range(6):
  if os.fork() == 0:
    os.setsid()
    while True:
      try:
        if os.fork() == 0: continue
      except OSError: pass
      os._exit(0)
print("ended")""",
    ends=OK | ENDED,
)
add(
    "threads",
    "threads without end",
    """
threading.stack_size(65536)
hold = threading.Event()
def one(_):
  t = threading.Thread(target=hold.wait, daemon=True); t.start()
until_refused("threads", one, 2000)
os._exit(0)""",
    ends=OK,
    control=True,
)
add(
    "memory",
    "one growing heap",
    "x = []\nwhile True: x.append(bytearray(8 << 20))",
    ends=ENDED,
    check=MEMORY,
)
add(
    "memory-many",
    "a heap spread over children",
    """
children = []
r, w = os.pipe()
for _ in range(30):
  child = os.fork()
  if child == 0:
    try: x = bytearray(16 << 20); x[::4096] = b"1" * len(x[::4096])
    except MemoryError: os._exit(1)
    os.write(w, struct.pack('i', os.getpid())); time.sleep(9); os._exit(0)
  children.append(child)
time.sleep(1.2)
os.set_blocking(r, False)
try: done = struct.iter_unpack("i", os.read(r, 4096))
except BlockingIOError: done = ()
alive = sum(os.waitpid(child, os.WNOHANG)[0] == 0 for (child,) in done)
(no if alive * 16 <= 200 else got)(f"{alive} children hold 16 MB each")""",
    ends=ANYHOW,
    limits={"wall_s": 3.0},
    control=True,
    check=MEMORY,
)
add(
    "memory-shared",
    "shared anonymous memory",
    """
hold = []
def one(_):
  m = mmap.mmap(-1, 16 << 20); m.write(b"x" * (16 << 20)); hold.append(m)
until_refused("times 16 MB shared", one, 30)""",
    ends=ANYHOW,
    check=MEMORY,
)
add(
    "memory-shared-many",
    "shared anonymous memory, spread over children",
    """
children = []
r, w = os.pipe()
for _ in range(10):
  child = os.fork()
  if child == 0:
    try: m = mmap.mmap(-1, 40 << 20); m.write(b"x" * (40 << 20))
    except (OSError, MemoryError, ValueError): os._exit(1)
    os.write(w, struct.pack('i', os.getpid())); time.sleep(9); os._exit(0)
  children.append(child)
time.sleep(1.2)
os.set_blocking(r, False)
try: done = struct.iter_unpack("i", os.read(r, 4096))
except BlockingIOError: done = ()
alive = sum(os.waitpid(child, os.WNOHANG)[0] == 0 for (child,) in done)
(no if alive * 40 <= 200 else got)(f"{alive} children hold 40 MB each")""",
    ends=ANYHOW,
    limits={"wall_s": 3.0},
    check=MEMORY,
)
add(
    "memory-memfd-many",
    "files that lie in memory alone, spread over children",
    """
children = []
r, w = os.pipe()
for _ in range(10):
  child = os.fork()
  if child == 0:
    for _ in range(4):
      d, failed = call("memfd_create", b"x", 0)
      if d < 0: os._exit(1)
      for _ in range(10): os.write(d, b"x" * (1 << 20))
    os.write(w, struct.pack('i', os.getpid())); time.sleep(9); os._exit(0)
  children.append(child)
time.sleep(1.2)
os.set_blocking(r, False)
try: done = struct.iter_unpack("i", os.read(r, 4096))
except BlockingIOError: done = ()
alive = sum(os.waitpid(child, os.WNOHANG)[0] == 0 for (child,) in done)
(no if alive * 40 <= 200 else got)(f"{alive} children hold 40 MB each")""",
    ends=ANYHOW,
    limits={"wall_s": 3.0},
    check=MEMORY,
)
add(
    "memory-sysv-many",
    "System V shared memory that nobody has attached",
    """
held = 0
for n in range(12):
  shm, failed = call("shmget", 0, ctypes.c_size_t(32 << 20), 0o1600)
  if shm < 0: no(failed); break
  at = C.shmat(shm, None, 0)
  if at in (None, NOWHERE): no("shmat"); break
  ctypes.memset(at, 1, 32 << 20); C.shmdt(ctypes.c_void_p(at)); held += 32
time.sleep(0.3)
(no if held <= 200 else got)(f"{held} MB in segments")""",
    ends=ANYHOW,
    limits={"wall_s": 3.0},
    check=MEMORY,
)
add(
    "memory-memfd",
    "files that lie in memory alone",
    """
hold = []
def one(_):
  d, failed = call("memfd_create", b"x", 0)
  if d < 0: raise OSError(failed)
  hold.append(d)
  for _ in range(15): os.write(d, b"x" * (1 << 20))
until_refused("times 15 MB in memfd", one, 30)""",
    ends=ANYHOW,
    check=MEMORY,
)
add(
    "page-tables",
    "page tables instead of pages",
    """
m = C.mmap(None, 1 << 38, 3, 0x4022, -1, 0)
if m in (None, NOWHERE): no("mapping refused")
else:
  for at in range(0, 1 << 38, 2 << 20): ctypes.c_char.from_address(m + at).value = b"x"
  got("512 MB of page tables")""",
    ends=ANYHOW,
    limits={"wall_s": 2.0},
)
add(
    "disk",
    "every folder that can be written is filled",
    """
total = 0
for folder in (".", "/tmp", "/var/tmp", "/dev/shm", "/dev", "/run", "/", "/home", "/mnt", "/opt", "/var", "/etc"):
  for n in range(8):
    try:
      with open(f"{folder}/fill{n}", "wb", buffering=0) as file:
        while True: total += file.write(b"x" * (1 << 20))
    except OSError as error:
      if error.errno != errno.EFBIG: break
(no if total <= 49 << 20 else got)(f"wrote {total} bytes")""",
    ends=ANYHOW,
)
add(
    "disk-allocated",
    "space that is reserved and not written",
    """
total = 0
def one(n):
  global total
  d = os.open(f"a{n}", os.O_CREAT | os.O_RDWR); os.posix_fallocate(d, 0, 8 << 20); total += 8 << 20
until_refused("times 8 MB reserved", one, 40)""",
    ends=ANYHOW,
)
add(
    "file-size",
    "one file without end",
    """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
d = os.open("big", os.O_CREAT | os.O_RDWR)
until_refused("megabytes in one file", lambda n: os.write(d, b"x" * (1 << 20)), 30)
refused("a sparse file", lambda: os.truncate("big", 1 << 40))
refused("a write far out", lambda: os.pwrite(d, b"x", 1 << 40))""",
    ends=ANYHOW,
    check=limit_is("file_bytes", "disk_bytes", "memory_bytes"),
)
add(
    "inodes",
    "empty files without end",
    'until_refused("files", lambda n: os.close(os.open(f"i{n}", os.O_CREAT | os.O_WRONLY)), 20000)',
    ends=ANYHOW,
)
add(
    "inodes-links",
    "folders and symbolic links without end",
    """
until_refused("folders", lambda n: os.mkdir(f"d{n}"), 20000)
until_refused("links", lambda n: os.symlink("x" * 200, f"l{n}"), 20000)""",
    ends=ANYHOW,
)
add(
    "hard-links",
    "names without end for one file",
    """
open("one", "w").close(); os.mkdir("many")
until_refused("names", lambda n: os.link("one", f"many/{'n' * 200}{n}"), 60000)""",
    ends=ANYHOW,
    limits={"wall_s": 3.0},
)
add(
    "deep",
    "folders in folders, thousands deep",
    """
try:
  for depth in range(6000): os.mkdir("d"); os.chdir("d")
except OSError as error: no(f"{error} at {depth}")
try: open("bottom", "w").write("x")
except OSError as error: no(error)""",
    ends=ANYHOW,
)
add(
    "stdout",
    "output without end",
    "while True: os.write(1, b'A' * 65536)",
    ends=STOPPED,
    limits={"wall_s": 3.0},
    check=limit_is("output_bytes"),
)
add(
    "stderr",
    "errors without end, from a child",
    "os.fork()\nwhile True: os.write(2, b'E' * 65536)",
    ends=STOPPED,
    limits={"wall_s": 3.0},
    check=limit_is("output_bytes"),
)
add(
    "both-outputs",
    "both outputs in turn, byte by byte",
    "while True: os.write(1, b'a'); os.write(2, b'b')",
    ends=STOPPED,
    limits=BRIEF,
    check=limit_is("output_bytes", "wall_s"),
)
add(
    "trickle",
    "a little output for ever",
    "while True: print('.', flush=True); time.sleep(0.05)",
    ends=STOPPED,
    limits=BRIEF,
    check=limit_is("wall_s"),
)
add("busy", "a busy loop", "while True: pass", ends=STOPPED, limits=BRIEF, check=limit_is("wall_s", "cpu_s"))
add(
    "processor-time",
    "a busy loop that ignores every warning",
    """
for one in range(1, 65):
  try: signal.signal(one, signal.SIG_IGN)
  except (OSError, ValueError): pass
while True: pass""",
    ends=STOPPED,
    limits={"cpu_s": 1.0, "wall_s": 4.0},
    check=limit_is("cpu_s", "wall_s"),
)
add("sleep", "sleep for ever", "time.sleep(10**6)", ends=STOPPED, limits=BRIEF, check=limit_is("wall_s"))
add(
    "pattern",
    "a pattern that backtracks for ever, inside one C call",
    "import re; re.match(r'(a|a)*$', 'a' * 60 + 'b')",
    ends=STOPPED,
    limits=BRIEF,
)
add("number", "a number that takes for ever, with signals blocked", "x = 9**9**8", ends=ENDED, limits=BRIEF)
add(
    "pipes",
    "pipes, each enlarged and filled",
    """
total = 0; hold = []
def one(_):
  global total
  r, w = os.pipe(); hold.extend((r, w)); os.set_blocking(w, False)
  try: fcntl.fcntl(w, 1031, 1 << 20)
  except OSError: pass
  try:
    while True: total += os.write(w, b"x" * 65536)
  except BlockingIOError: pass
until_refused("full pipes", one, 600)
(no if total < 192 << 20 else got)(f"{total} bytes in pipes")""",
    ends=ANYHOW,
)
add(
    "socket-buffers",
    "socket pairs, each filled",
    """
total = 0; hold = []
def one(_):
  global total
  a, b = socket.socketpair(); hold.extend((a, b)); a.setblocking(False)
  a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 30)
  try:
    while True: total += a.send(b"x" * 65536)
  except BlockingIOError: pass
until_refused("full sockets", one, 600)
(no if total < 192 << 20 else got)(f"{total} bytes in sockets")""",
    ends=ANYHOW,
)
add(
    "descriptors-in-flight",
    "descriptors that are sent and never received",
    """
import array
kept = open("/dev/null")
def one(n):
  a, b = socket.socketpair()
  for _ in range(60):
    a.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [b.fileno()] * 100))])
  a.close(); b.close()
until_refused("times 6000 descriptors in flight", one, 40)""",
    ends=ANYHOW,
)
add(
    "mappings",
    "a flood of tiny mappings",
    """
count = 0
while count < 300000:
  at = C.mmap(None, 4096, 1 + (count & 1) * 2, 0x22, -1, 0)
  if at in (None, NOWHERE): break
  count += 1
(no if count < 200000 else got)(f"{count} mappings")""",
    ends=ANYHOW,
    limits={"wall_s": 3.0},
)
add(
    "timers",
    "a flood of timers",
    """
def one(_):
  slot = ctypes.c_int()
  result, failed = call("timer_create", 1, None, ctypes.byref(slot))
  if result < 0: raise OSError(failed)
until_refused("timers", one, 200000)""",
    ends=ANYHOW,
    limits={"wall_s": 3.0},
)
add(
    "signals-queued",
    "a flood of queued signals",
    """
signal.pthread_sigmask(signal.SIG_BLOCK, {40})
C.sigqueue.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
def one(_):
  if C.sigqueue(os.getpid(), 40, None) < 0: raise OSError(name_of(ctypes.get_errno()))
until_refused("queued signals", one, 200000)""",
    ends=ANYHOW,
    limits={"wall_s": 3.0},
)
add(
    "sysv-memory",
    "System V shared memory",
    """
def one(n):
  shm, failed = call("shmget", @shmkey@ + 1 + n, ctypes.c_size_t(32 << 20), 0o1600)
  if shm < 0: raise OSError(failed)
  at = C.shmat(shm, None, 0)
  if at in (None, NOWHERE): raise OSError("shmat")
  ctypes.memset(at, 1, 32 << 20)
until_refused("times 32 MB of shared memory", one, 12)""",
    ends=ANYHOW,
    check=MEMORY,
)
add(
    "sysv-queues",
    "System V queues and semaphores",
    """
def queue(n):
  made, failed = call("msgget", 0, 0o1600)
  if made < 0: raise OSError(failed)
  body = ctypes.create_string_buffer(struct.pack("l", 1) + b"x" * 8000, 8 + 8000)
  call("msgsnd", made, body, ctypes.c_size_t(8000), 0o4000)
def semaphores(n):
  made, failed = call("semget", 0, 32000, 0o1600)
  if made < 0: raise OSError(failed)
until_refused("queues", queue, 40000)
until_refused("times 32000 semaphores", semaphores, 2000)""",
    ends=ANYHOW,
    limits={"wall_s": 3.0},
)
add(
    "posix-queues",
    "POSIX message queues",
    """
def one(n):
  made = C.mq_open(f"/hostile-@tag@-{n}".encode(), os.O_CREAT | os.O_RDWR, 0o600, None)
  if made < 0: raise OSError(name_of(ctypes.get_errno()))
until_refused("message queues", one, 300)""",
)
add(
    "zombies",
    "children that nobody waits for",
    """
def one(_):
  if os.fork() == 0: os._exit(0)
until_refused("zombies", one, 500)""",
    ends=OK | ENDED,
)
add(
    "core",
    "a core dump",
    """
refused("raise the limit", lambda: resource.setrlimit(resource.RLIMIT_CORE, (1 << 30, 1 << 30)))
os.abort()""",
    ends=frozenset({"signal"}),
    check=all_of(
        signal_is("SIGABRT"),
        lambda result: "a core was dumped" if any("core" in name for name in result.artifacts) else None,
    ),
)
add(
    "stack",
    "recursion through the end of the stack",
    "sys.setrecursionlimit(10**9)\ndef f(): return (f(),)\nf()",
    ends=ENDED,
)
add(
    "open-files",
    "open files without end",
    'hold = []\nuntil_refused("open files", lambda n: hold.append(os.open("/dev/null", 0)), 5000)',
    ends=FINISHED,
)
add(
    "watches",
    "epoll without end",
    """
hold = []
import select
def nested(_):
  a, b = select.epoll(), select.epoll(); a.register(b.fileno()); hold.extend((a, b))
until_refused("epolls", nested, 5000)""",
    ends=FINISHED,
)
add(
    "locks",
    "record locks without end",
    """
d = os.open("locked", os.O_CREAT | os.O_RDWR); os.ftruncate(d, 1 << 20)
count = 0
try:
  for count in range(0, 300000, 2): fcntl.lockf(d, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, count)
except OSError as error: no(f"{error} at {count}")
else: no("held in memory that counts")""",
    ends=ANYHOW,
    limits={"wall_s": 2.0},
)
add(
    "huge-pages",
    "huge pages of the host's pool",
    """
at = C.mmap(None, 1 << 30, 3, 0x40022, -1, 0)
if at in (None, NOWHERE): no(name_of(ctypes.get_errno()))
else: ctypes.memset(at, 1, 1 << 30); got("1 GB of huge pages")
result, failed = call("memfd_create", b"x", 4)
if result < 0: no(failed)
else: refused("map a huge memfd", lambda: (os.ftruncate(result, 1 << 30), mmap.mmap(result, 1 << 30).write(b"x" * (1 << 28))))""",
    ends=ANYHOW,
)
add(
    "locked-memory",
    "memory that may not be swapped",
    """
m = mmap.mmap(-1, 64 << 20)
at = ctypes.addressof(ctypes.c_char.from_buffer(m))
if C.mlock(ctypes.c_void_p(at), ctypes.c_size_t(64 << 20)) < 0: no(name_of(ctypes.get_errno()))
else: got("64 MB locked")""",
    ends=ANYHOW,
    control=True,
)
add(
    "limits-raised",
    "its own limits, and those of others",
    """
for one in ("AS", "NPROC", "NOFILE", "FSIZE", "CPU", "CORE", "MEMLOCK", "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO"):
  which = getattr(resource, "RLIMIT_" + one)
  soft, hard = resource.getrlimit(which)
  if hard == resource.RLIM_INFINITY: no(f"{one} has none"); continue
  refused(one, lambda: resource.setrlimit(which, (hard + 1, hard + 1)))
must_fail("prlimit64", 1, 7, struct.pack("QQ", 10, 10), None)
must_fail("prlimit64", os.getppid(), 7, struct.pack("QQ", 10, 10), None)""",
)
add(
    "priority",
    "real-time scheduling, and before all others",
    """
must_fail("sched_setscheduler", 0, 1, struct.pack("i", 10))
must_fail("sched_setattr", 0, struct.pack("IIQiIQQQ", 48, 6, 0, 0, 0, 10**7, 3 * 10**7, 3 * 10**7), 0)
refused("nice -10", lambda: os.setpriority(os.PRIO_PROCESS, 0, -10))
must_fail("ioprio_set", 1, 0, (1 << 13) | 0)""",
    control=True,
)
add(
    "cpus",
    "eight busy children share what the profile gives",
    """
children = []
for _ in range(8):
  child = os.fork()
  if child == 0:
    while True: pass
  children.append(child)
time.sleep(1.2)
for child in children: os.kill(child, 9); os.waitpid(child, 0)
spent = os.times(); spent = spent.children_user + spent.children_system
(no if spent < 0.95 else got)(f"{spent:.2f} s of processor time in 1.2 s")""",
    ends=OK | STOPPED,
    limits={"cpus": 0.5, "wall_s": 4.0},
    alone=True,
    needs=frozenset({Control.CPU}),
)
add(
    "arguments",
    "arguments and environment as large as can be",
    """
big = "x" * 130000
refused("exec with 4 MB", lambda: os.execve("/bin/true", ["true"] + [big] * 20, {f"E{n}": big for n in range(12)}))""",
    ends=OK | ENDED,
)
add(
    "zero-device",
    "a device that never ends",
    "with open('/dev/zero', 'rb', buffering=0) as file:\n  while True: file.read(1 << 20)",
    ends=STOPPED,
    limits=BRIEF,
)
add(
    "entropy",
    "much of the random device, and writes to it",
    """
for _ in range(20): read("/dev/urandom", 1 << 20)
import array
d = os.open("/dev/urandom", os.O_RDONLY)
refused("add entropy", lambda: fcntl.ioctl(d, 0x40085203, struct.pack("ii8s", 64, 8, b"12345678")))
refused("reseed", lambda: fcntl.ioctl(d, 0x5207, 0))""",
    ends=FINISHED,
)
add(
    "peak-told",
    "memory that was used is told",
    "x = bytearray(80 << 20); x[::4096] = b'1' * len(x[::4096]); no('touched 80 MB')",
    check=lambda result: (
        f"told {result.usage.peak_memory_bytes}"
        if result.usage.peak_memory_bytes is not None and not 80 * MB <= result.usage.peak_memory_bytes <= 200 * MB
        else None
    ),
)
