# ruff: noqa: E501  (programs keep their lines)
"""Programs that will not end, end oddly, or lie about how they ended."""

from tests.sandbox.escapes.case import (
    ANYHOW,
    ENDED,
    FINISHED,
    OK,
    STOPPED,
    Group,
    all_of,
    exit_is,
    limit_is,
    said,
    signal_is,
)

CASES = Group("life")
add = CASES.add
BRIEF = {"wall_s": 0.7}
BYTES = bytes(range(256)) * 8

add(
    "pipes-held",
    "a daemon that holds the pipes open",
    "if os.fork() == 0:\n  os.setsid(); time.sleep(30); os._exit(0)\nprint('ended', flush=True)",
    within_s=9.0,
    check=said(b"ended"),
)
add(
    "pipes-held-sh",
    "a shell's daemon that holds the pipes open",
    "(setsid sleep 30 &) ; sleep 30 & echo ended",
    language="sh",
    within_s=9.0,
    check=said(b"ended"),
)
add(
    "twice-forked",
    "a daemon that forks anew for ever",
    """
if os.fork() == 0:
  os.setsid()
  if os.fork(): os._exit(0)
  while True:
    try:
      if os.fork(): os._exit(0)
    except OSError: pass
print('ended', flush=True)""",
    ends=OK | ENDED,
    within_s=10.0,
)
add(
    "stopped-children",
    "children that are stopped when the program ends",
    """
for _ in range(5):
  child = os.fork()
  if child == 0: os.kill(os.getpid(), 19); os._exit(0)
  os.waitpid(child, os.WUNTRACED)
print('ended')""",
    check=said(b"ended"),
)
add(
    "stops-itself",
    "a program that stops itself",
    "os.kill(os.getpid(), 19)\nprint('on')",
    ends=STOPPED,
    limits=BRIEF,
    check=limit_is("wall_s"),
)
add(
    "frozen-by-vfork",
    "a parent that waits for a child's exec for ever",
    "C.vfork() == 0 and C.pause()",
    ends=ANYHOW,
    limits=BRIEF,
)
add(
    "forged-record",
    "a result of its own making, on every descriptor",
    """
record = b'{"status": "ok", "exit": 0, "exit_code": 0, "value": "forged", "artifacts": {}, "forged": true}\\n'
for d in range(3, 256):
  for text in (record, struct.pack("<I", len(record)) + record, struct.pack(">I", len(record)) + record, record * 50):
    try: os.set_blocking(d, False); os.write(d, text)
    except OSError: pass
os._exit(7)""",
    ends=frozenset({"exit"}),
    check=all_of(exit_is(7), lambda result: "a forged value" if result.value and "forged" in result.value else None),
)
add(
    "forged-by-functions",
    "a result forged by replaced functions",
    """
import builtins
lie = lambda *a, **k: 0
for name in ("_exit", "write", "close", "dup2", "kill", "waitpid", "abort", "fork"): setattr(os, name, lie)
sys.exit = builtins.exit = lie
raise SystemExit(5)""",
    ends=frozenset({"exit"}),
    check=exit_is(5),
)
add(
    "forged-success",
    "a failure that replaced functions make a success",
    """
import builtins
for name in ("_exit",): setattr(os, name, lambda code: None)
sys.excepthook = lambda *a: None
sys.stderr = None
raise RuntimeError("this program failed")""",
    ends=frozenset({"exit"}),
    check=lambda result: None if result.exit_code else "a success",
)
add(
    "output-reopened",
    "its outputs reopened, made to block not, and enlarged",
    """
for d in (0, 1, 2):
  try: os.close(os.open(f"/proc/self/fd/{d}", os.O_RDWR | os.O_NONBLOCK)); no("reopened")
  except OSError as error: no(error)
  fcntl.fcntl(d, fcntl.F_SETFL, os.O_NONBLOCK)
  try: fcntl.fcntl(d, 1031, 1 << 30); got("a pipe of 1 GB")
  except OSError as error: no(error)
os.set_blocking(1, True); os.write(1, b"ok\\n")""",
    check=said(b"ok"),
)
add(
    "own-words-back",
    "what it wrote, read back and answered to itself",
    """
for d in (1, 2):
  def back():
    copy = os.open(f"/proc/self/fd/{d}", os.O_RDONLY | os.O_NONBLOCK); os.write(d, b"once\\n"); return os.read(copy, 100)
  try: no(back())
  except OSError as error: no(error)
try: os.write(0, b"up the input"); no("wrote to its input")
except OSError as error: no(error)""",
)
add(
    "bytes",
    "every byte, and no text at all",
    "os.write(1, bytes(range(256)) * 8); os.write(2, bytes([255, 254, 0, 216]))",
    check=lambda result: (
        None if result.stdout.whole == BYTES and result.stderr.whole == b"\xff\xfe\0\xd8" else "bytes changed"
    ),
)
add("input-ends", "input that ends", "print(len(sys.stdin.buffer.read()))", within_s=9.0, check=said(b"0"))
add(
    "input-ignored",
    "4 MB of input that nobody reads",
    "print('ignored')",
    stdin=b"x" * (4 << 20),
    within_s=9.0,
    check=said(b"ignored"),
)
add(
    "input-closed",
    "input that is closed at once",
    "os.close(0); print('closed')",
    stdin=b"x" * (1 << 20),
    within_s=9.0,
    check=said(b"closed"),
)
add(
    "input-and-output",
    "input and output larger than every pipe, at once",
    """
total = 0
while data := os.read(0, 65536): total += len(data); os.write(1, b"y" * (len(data) // 8))
print(total)""",
    stdin=b"x" * (4 << 20),
    check=lambda result: None if result.stdout.whole.endswith(b"%d\n" % (4 << 20)) else "input was lost",
)
add("exit-code", "an exit code larger than 255", "os._exit(256 + 7)", ends=frozenset({"exit"}), check=exit_is(7))
add(
    "exit-code-sh",
    "exit codes that look like signals",
    "exit 137",
    language="sh",
    ends=frozenset({"exit"}),
    check=exit_is(137),
)
add("exit-text", "an exit with text", "sys.exit('the reason')", ends=frozenset({"exit"}), check=exit_is(1))
add(
    "killed-itself",
    "SIGKILL to itself",
    "os.kill(os.getpid(), 9)",
    ends=frozenset({"signal"}),
    check=signal_is("SIGKILL"),
)
add(
    "killed-itself-sh",
    "SIGKILL to itself, in the shell",
    "kill -9 $$",
    language="sh",
    ends=frozenset({"signal"}),
    check=signal_is("SIGKILL"),
)
add(
    "violation",
    "memory that is not there",
    "ctypes.string_at(1)",
    ends=frozenset({"signal"}),
    check=signal_is("SIGSEGV"),
)
add("real-time-signal", "a signal without a name", "signal.raise_signal(40)", ends=frozenset({"signal"}))
add(
    "never-ends",
    "work at exit that never ends",
    "import atexit; atexit.register(time.sleep, 60); print('end')",
    ends=STOPPED,
    limits=BRIEF,
    check=limit_is("wall_s"),
)
add(
    "thread-stays",
    "a thread that stays",
    "threading.Thread(target=time.sleep, args=(60,)).start(); print('end')",
    ends=STOPPED,
    limits=BRIEF,
)
add(
    "late-output",
    "a child that writes when the program has ended",
    """
if os.fork() == 0:
  for _ in range(300): os.write(1, b"late\\n"); time.sleep(0.01)
  os._exit(0)
print("ended", flush=True)""",
    within_s=9.0,
    check=said(b"ended"),
)
add(
    "ignores-everything",
    "a program that ignores each signal",
    """
for one in range(1, 65):
  try: signal.signal(one, signal.SIG_IGN)
  except (OSError, ValueError): pass
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
while True: time.sleep(10)""",
    ends=STOPPED,
    limits=BRIEF,
    check=limit_is("wall_s"),
)
add(
    "replaced",
    "a program that becomes another keeps its limits",
    """
os.execv("/bin/sh", ["sh", "-c", "cat @dir@/world && echo GOT:canary; ulimit -Hc; ulimit -Hn; exit 3"])""",
    ends=frozenset({"exit"}),
    check=exit_is(3),
)
add("closes-all", "every descriptor closed", "os.closerange(0, 1024); os._exit(0)", ends=OK, within_s=9.0)
add(
    "closes-output-and-waits",
    "outputs closed, and then sleep",
    "os.closerange(0, 1024); time.sleep(30)",
    ends=STOPPED,
    limits=BRIEF,
    check=limit_is("wall_s"),
)
add(
    "cut-output",
    "outputs that are cut short from inside",
    """
for d in (1, 2):
  for action in (lambda: os.ftruncate(d, 0), lambda: os.lseek(d, 0, 0), lambda: socket.socket(fileno=os.dup(d)).shutdown(2)):
    try: action(); no("done")
    except OSError as error: no(error)
os.write(1, b"still\\n")""",
    ends=FINISHED,
)
add("nothing", "an empty program", "", within_s=9.0)
add(
    "no-program", "a shell that starts what is not there", "exec /nothing/here", language="sh", ends=frozenset({"exit"})
)
add(
    "one-line",
    "a line without end",
    "for _ in range(40): os.write(1, b'x' * 20000)",
    check=lambda result: None if result.stdout.total == 800000 else "bytes were lost",
)
add(
    "storm-at-exit",
    "a storm of forks as it exits",
    """
import atexit
def storm():
  for _ in range(200):
    try:
      if os.fork() == 0: time.sleep(30); os._exit(0)
    except OSError: break
atexit.register(storm); print("ended", flush=True)""",
    ends=OK | ENDED,
    within_s=11.0,
)
add(
    "child-ends-later",
    "a child that returns into what comes after the program",
    """
child = os.fork()
if child: os.waitpid(child, 0)
"the parent" if child else "the child"
""",
    check=lambda result: None if result.value == repr("the parent") else f"the value is {result.value}",
)
