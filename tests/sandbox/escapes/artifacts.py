# ruff: noqa: E501  (programs keep their lines)
"""Programs that leave files behind which hurt whoever collects them."""

from tests.sandbox.escapes.case import ANYHOW, ENDED, OK, PROFILE, STOPPED, Check, Group, all_of
from toolpost.sandbox.outcome import SandboxResult

CASES = Group("artifacts")
add = CASES.add
LIMITS = PROFILE.limits


def clean(result: SandboxResult) -> str | None:
    """Names that stay below a folder and can be printed, no more than is allowed, and nothing of the host."""
    for name, data in result.artifacts.items():
        parts = name.split("/")
        if name.startswith("/") or ".." in parts or "" in parts or "." in parts or not name.isprintable():
            return f"the name {name!r}"
        if b"root:" in data or b"canary-" in data:
            return f"{name} holds data of the host"
    if len(result.artifacts) > LIMITS.artifacts:
        return f"{len(result.artifacts)} artifacts"
    if sum(map(len, result.artifacts.values())) > LIMITS.artifact_bytes:
        return "more bytes than allowed"
    if any(not one.isprintable() or len(one) > 2000 for one in result.left_behind) or len(result.left_behind) > 200:
        return f"left behind is told badly: {result.left_behind!r:.200}"
    return None


def holds(name: str, data: bytes) -> Check:
    return lambda result: (
        None if result.artifacts.get(name) == data else f"{name} is {result.artifacts.get(name)!r:.60}"
    )


def none(result: SandboxResult) -> str | None:
    return f"collected {sorted(result.artifacts)[:5]}" if result.artifacts else None


def told(word: str) -> Check:
    return lambda result: (
        None if any(word in one for one in result.left_behind) else f"{word} is not told: {result.left_behind}"
    )


add(
    "links",
    "symbolic links to secrets",
    """
for n, path in enumerate(("/etc/passwd", "/etc/shadow", "@dir@/world", "/proc/self/environ", "/proc/1/environ",
                          "../../../../../@dir@/world", "/dev/zero", "/proc/kcore", ".", "loop")): os.symlink(path, f"l{n}")
os.symlink("loop", "loop"); os.mkdir("d"); os.symlink("/etc", "d/e"); os.symlink("/proc/1/root", "d/r")""",
    check=all_of(clean, none),
)
add(
    "hard-links",
    "files with more than one name",
    """
open("a", "w").write("x"); os.link("a", "b"); os.mkdir("/tmp/t"); open("/tmp/t/c", "w").write("y")
try: os.link("/tmp/t/c", "c")
except OSError as error: no(error)
for path in ("/etc/passwd", "/proc/self/environ", "/usr/bin/env"):
  refused("link " + path, lambda: os.link(path, "stolen-" + os.path.basename(path)))""",
    check=clean,
)
add(
    "special",
    "pipes, sockets and devices",
    """
os.mkfifo("fifo"); s = socket.socket(socket.AF_UNIX); s.bind("sock"); os.mkdir("d"); os.mkfifo("d/fifo")
if os.fork() == 0: os.setsid(); os.open("fifo", os.O_WRONLY)
open("good", "w").write("fine")""",
    check=all_of(clean, holds("good", b"fine"), told("fifo")),
    within_s=10.0,
)
add(
    "large",
    "files too large, sparse and growing in number",
    """
open("big", "wb").write(b"x" * (12 << 20)); os.truncate(os.open("sparse", os.O_CREAT | os.O_RDWR), 15 << 20)
for n in range(5): open(f"part{n}", "wb").write(b"x" * (3 << 20))
open("good", "w").write("fine")""",
    check=all_of(clean, lambda result: None if result.left_behind else "nothing is told"),
)
add(
    "many",
    "many small files",
    """
for n in range(800): open(f"f{n}", "w").write("x")
for n in range(100): os.makedirs(f"d{n}/e/f"); open(f"d{n}/e/f/g", "w").write("x")""",
    check=all_of(clean, lambda result: None if result.left_behind else "nothing is told"),
)
add(
    "deep",
    "a file at the bottom of thousands of folders",
    """
try:
  for _ in range(1500): os.mkdir("d"); os.chdir("d")
except OSError as error: no(error)
try: open("bottom", "w").write("x")
except OSError as error: no(error)""",
    check=clean,
    ends=ANYHOW,
    within_s=11.0,
)
add(
    "names",
    "names that break terminals, paths and encodings",
    """
for name in (b"a\\nb", b"\\x1b[31mred", b"\\xff\\xfe", b"-rf", b"..%2f..%2fetc", b"x" * 255, b" lead", b"trail ", b"dot.", b"...",
             b"\\xe2\\x80\\xae" + b"gpj.exe", b"back\\\\slash", b"C:evil", b"nul", b"\\xe2\\x80\\x8b", b"~root", b"a\\tb", b"\\x7f", b"*", b"|id",
             b"caf\\xc3\\xa9", b"cafe\\xcc\\x81", b"\\xed\\xa0\\x80", b"\\xf0\\x9f\\x98\\x80" * 60, b"\\xc2\\x85", b"\\xe2\\x80\\xa8"):
  try: os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
  except OSError as error: no(error)
open("good.txt", "w").write("fine")""",
    check=all_of(clean, holds("good.txt", b"fine")),
)
add(
    "long-paths",
    "paths longer than any path may be",
    """
try:
  for _ in range(30): os.mkdir("n" * 250); os.chdir("n" * 250)
  open("end" * 80, "w").write("x")
except OSError as error: no(error)""",
    check=clean,
)
add(
    "folder-swapped",
    "a folder that becomes a link and back, while it is collected",
    """
os.mkdir("d"); open("d/x", "w").write("1"); open("d/passwd", "w").write("mine")
for _ in range(3):
  if os.fork() == 0:
    os.setsid()
    while True:
      try: os.rename("d", "e"); os.symlink("/etc", "d"); os.unlink("d"); os.rename("e", "d")
      except OSError: pass
time.sleep(0.2)""",
    check=clean,
)
add(
    "file-swapped",
    "a file that becomes a pipe, a link and a device, at a time limit",
    """
while True:
  for make in (lambda: open("f", "w").write("x"), lambda: os.mkfifo("f"), lambda: os.symlink("/etc/passwd", "f")):
    try: os.unlink("f")
    except OSError: pass
    make()""",
    ends=STOPPED,
    limits={"wall_s": 0.6},
    check=clean,
)
add(
    "growing",
    "a file that grows while it is read",
    """
if os.fork() == 0:
  os.setsid()
  with open("grow", "wb", buffering=0) as file:
    while True:
      file.write(b"x" * 65536)
      if file.tell() > 8 << 20: file.truncate(0); file.seek(0)
time.sleep(0.2)""",
    ends=OK | ENDED,
    check=clean,
)
add(
    "no-rights",
    "files and folders without rights",
    """
open("n", "w").write("x"); os.chmod("n", 0); os.mkdir("d"); open("d/q", "w").write("1"); os.chmod("d", 0)
open("good", "w").write("fine"); os.mkdir("last"); open("last/z", "w").write("z"); os.chmod(".", 0o000)""",
    check=clean,
)
add(
    "work-replaced",
    "the work folder itself replaced",
    """
for action in (lambda: os.rename("/box", "/box2"), lambda: os.rmdir("/box"), lambda: os.symlink("/etc", "/box"), lambda: os.rename("/tmp", "/box/t"),
               lambda: os.rename("/box", "/tmp/b")):
  refused("replace", lambda: action() or "done")""",
    check=clean,
)
add(
    "after-the-limit",
    "files of a program that was ended",
    "open('left', 'w').write('so far'); os.symlink('/etc/passwd', 'p'); time.sleep(30)",
    ends=STOPPED,
    limits={"wall_s": 0.6},
    check=all_of(clean, holds("left", b"so far")),
)
add(
    "leases",
    "leases and locks that make whoever opens a file wait",
    """
for name in ("a", "b"): open(name, "w").write("fine")
def hold():
  a, b = os.open("a", os.O_RDWR), os.open("b", os.O_RDWR)
  signal.signal(signal.SIGIO, signal.SIG_IGN)
  try: fcntl.fcntl(a, 1024, fcntl.F_WRLCK)
  except OSError as error: no(error)
  fcntl.flock(b, fcntl.LOCK_EX); fcntl.lockf(b, fcntl.LOCK_EX)
hold()
if os.fork() == 0: os.setsid(); hold(); time.sleep(30)
time.sleep(0.1)""",
    check=all_of(clean, holds("b", b"fine")),
    within_s=10.0,
)
add(
    "figures",
    "a library of figures of its own making",
    """
import types
lib = types.ModuleType("matplotlib"); plots = types.ModuleType("matplotlib.pyplot"); lib.pyplot = plots
class Figure:
  def savefig(self, place, *a, **k):
    if hasattr(place, "write"): place.write(b"x" * 1000)
    else: open(place, "wb").write(b"canary")
def numbers():
  n = 0
  while True: n += 1; yield n
plots.get_fignums = numbers; plots.figure = lambda *a, **k: Figure()
sys.modules["matplotlib"] = lib; sys.modules["matplotlib.pyplot"] = plots""",
    ends=ANYHOW,
    limits={"wall_s": 1.0},
    check=clean,
)
add(
    "mounts-in-work",
    "files that are open and have no name any more",
    """
d = os.open(".", os.O_TMPFILE | os.O_RDWR) if hasattr(os, "O_TMPFILE") else -1
os.write(d, b"hidden"); refused("named again", lambda: os.link(f"/proc/self/fd/{d}", "named", follow_symlinks=True), lambda v: True)
open("gone", "w").write("x"); os.unlink("gone")""",
    check=clean,
)
add(
    "shell-links",
    "links made by the shell",
    "ln -s /etc/passwd p; ln -s / root; mkdir -p a/b; ln -s ../../../../etc a/b/c; echo fine > good",
    language="sh",
    check=all_of(
        clean,
        holds("good", b"fine\n"),
        lambda result: None if set(result.artifacts) == {"good"} else "links were followed",
    ),
)
