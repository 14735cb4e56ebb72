# ruff: noqa: E501  (programs keep their lines)
"""Programs that attack other processes: the host's, pid 1 of the sandbox, each other."""

from tests.sandbox.escapes.case import ANYHOW, ENDED, FINISHED, OK, Group, said

CASES = Group("processes")
add = CASES.add

add(
    "host",
    "signals to processes of the host",
    """
only_inside()
for number in (@victim@, @victim2@, @engine@):
  for one in (0, 15, 9, 19):
    refused(f"kill {number} {one}", lambda: os.kill(number, one) or "sent")
  refused(f"group {number}", lambda: os.killpg(number, 9) or "sent")
  must_fail("tgkill", number, number, 9); must_fail("rt_sigqueueinfo", number, 9, ctypes.create_string_buffer(128))
  d, failed = call("pidfd_open", number, 0)
  (no if d < 0 else got)(f"pidfd {number} {failed}")""",
)
add(
    "all",
    "a signal to all",
    "only_inside()\nfor one in (15, 19, 9):\n  try: os.kill(-1, one)\n  except OSError as error: no(error)",
    ends=OK | frozenset({"signal", "exit"}),
)
add("own-group", "a signal to its own group", "only_inside()\nos.killpg(0, 9)", ends=frozenset({"signal"}))
add(
    "own-group-sh",
    "a signal to the shell's group",
    "[ -r @dir@/world ] && exit 0; kill -9 0",
    language="sh",
    ends=ENDED,
)
add(
    "stop-all",
    "everything is stopped, again and again",
    """
only_inside()
for _ in range(3):
  if os.fork() == 0:
    while True:
      try: os.kill(-1, 19)
      except OSError: pass
for _ in range(50):
  try: os.kill(1, 19); os.kill(-1, 19)
  except OSError as error: no(error)""",
    ends=ANYHOW,
    limits={"wall_s": 1.0},
)
add(
    "first",
    "every signal to pid 1",
    """
only_inside()
for one in range(1, 65):
  try: os.kill(1, one)
  except (OSError, ValueError) as error: no(error)
time.sleep(0.2); print("still here")""",
    check=said(b"still here"),
)
add(
    "first-by-handle",
    "every signal to pid 1, by a handle and with a forged sender",
    """
only_inside()
d, failed = call("pidfd_open", 1, 0)
for one in (9, 19, 17, 10, 12, 34, 64):
  if d >= 0: call("pidfd_send_signal", d, one, None, 0)
  call("tgkill", 1, 1, one)
  forged = ctypes.create_string_buffer(struct.pack("iiiiii", one, 0, -1, 0, os.getpid(), 0) + b"\\0" * 104, 128)
  call("rt_sigqueueinfo", 1, one, forged)
time.sleep(0.2); print("still here")""",
    check=said(b"still here"),
)
add(
    "first-of-parent",
    "pid 1 limited, slowed and moved",
    """
only_inside()
must_fail("prlimit64", 1, 7, struct.pack("QQ", 0, 0), None); must_fail("prlimit64", 1, 0, struct.pack("QQ", 1, 1), None)
for action in (lambda: os.setpriority(os.PRIO_PROCESS, 1, 19), lambda: os.sched_setaffinity(1, {0}), lambda: os.setpgid(1, 0),
               lambda: os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0)),
               lambda: os.setpriority(os.PRIO_USER, os.getuid(), 19)):
  try: action(); no("the kernel takes it for its own user: " + str(action.__code__.co_firstlineno))
  except OSError as error: no(error)
must_fail("process_mrelease", -1, 0)""",
)
add(
    "first-drowned",
    "pid 1 drowned in children that die",
    """
only_inside()
end = time.monotonic() + 0.5
count = 0
while time.monotonic() < end:
  try:
    if os.fork() == 0:
      if os.fork() == 0: os._exit(1)
      os._exit(2)
    count += 1
  except OSError: time.sleep(0.001)
print(count); os._exit(9)""",
    ends=frozenset({"exit", "limit"}),
    check=lambda result: None if result.exit_code == 9 else f"exit code {result.exit_code}",
)
add(
    "orphans-forge",
    "orphans that end with other codes and signals",
    """
only_inside()
for code in range(20):
  if os.fork() == 0:
    if os.fork() == 0:
      time.sleep(0.001 * code)
      if code % 2: os.kill(os.getpid(), 9)
      os._exit(code)
    os._exit(0)
time.sleep(0.1); os._exit(33)""",
    ends=frozenset({"exit"}),
    check=lambda result: None if result.exit_code == 33 else f"exit code {result.exit_code}",
)
add(
    "owner-of-signals",
    "signals sent by descriptors to others",
    """
only_inside()
a, b = socket.socketpair()
for number in (@victim@, 1, @engine@):
  try:
    fcntl.fcntl(a, fcntl.F_SETOWN, number); fcntl.fcntl(a, 10, 9)
    fcntl.fcntl(a, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK); b.send(b"x")
  except OSError as error: no(error)
for d in (0, 1, 2):
  try: fcntl.fcntl(d, fcntl.F_SETOWN, 1); fcntl.fcntl(d, 10, 9); fcntl.fcntl(d, fcntl.F_SETFL, os.O_ASYNC)
  except OSError as error: no(error)
time.sleep(0.1); print("still here")""",
    check=said(b"still here"),
)
add(
    "mortal-bond",
    "a signal at a parent's end, and no end with one",
    """
only_inside()
C.prctl(1, 0, 0, 0, 0); C.prctl(36, 1, 0, 0, 0)
if os.fork() == 0:
  C.prctl(1, 0, 0, 0, 0); os.setsid()
  for one in range(1, 32):
    try: signal.signal(one, signal.SIG_IGN)
    except (OSError, ValueError): pass
  time.sleep(30)
print("ended")""",
    check=said(b"ended"),
)
add(
    "terminal-signals",
    "a program that ends by each signal",
    """
only_inside()
for one in (1, 2, 3, 4, 6, 7, 8, 11, 13, 14, 15, 24, 31):
  status = in_child(lambda: (signal.signal(one, signal.SIG_DFL), os.kill(os.getpid(), one), time.sleep(1)))
  (no if os.WIFSIGNALED(status) else got)(f"{one} {status}") if one not in (31,) else no(one)""",
    ends=FINISHED,
)
add(
    "priority-lost",
    "a slow end: many processes, each with much memory",
    """
only_inside()
for _ in range(12):
  if os.fork() == 0:
    x = bytearray(8 << 20); x[::4096] = b"1" * len(x[::4096]); os.nice(19); time.sleep(30); os._exit(0)
print("ended")""",
    ends=OK | ENDED,
)
