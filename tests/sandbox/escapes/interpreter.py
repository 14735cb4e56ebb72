# ruff: noqa: E501  (programs keep their lines)
"""Programs that attack the interpreter that runs them, and what it does before and after them."""

from tests.sandbox.escapes.case import ANYHOW, FINISHED, OK, STOPPED, Group, all_of, exit_is, said

CASES = Group("interpreter")
add = CASES.add

CLEAN = """
import builtins, json, random
for name in ("print", "open", "len", "__import__"):
  if getattr(builtins, name).__class__.__name__ == "function" and name != "open": got("builtins." + name)
if hasattr(builtins, "left"): got("builtins.left")
if json.loads("1") != 1: got("json.loads")
if "LEFT" in os.environ: got("os.environ")
if "left_module" in sys.modules: got("sys.modules")
if any("left" in path for path in sys.path): got("sys.path")
if any("left" in str(hook) for hook in sys.meta_path + sys.path_hooks): got("sys.meta_path")
if signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, None): got("a handler")
mask = os.umask(0o022)
if mask not in (0o022, 0o077): got(f"umask {mask:o}")
if "left" in os.getcwd(): got("folder")
if "left" in globals(): got("globals")
if sys.getrecursionlimit() != 1000: got("recursion limit")
if threading.active_count() != 1: got("threads")
if sys.gettrace() or sys.getprofile(): got("trace")
if signal.pthread_sigmask(signal.SIG_BLOCK, []): got("blocked signals")
if resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 77: got("limits")
no("looked")"""

add(
    "state-left",
    "state left in modules and in the process",
    """
import builtins, json
builtins.left = 1; builtins.len = lambda *a: 42; builtins.__import__ = lambda *a, **k: None
json.loads = lambda *a, **k: "left"; os.environ["LEFT"] = "1"; sys.modules["left_module"] = os; sys.path.insert(0, "/box/left")
sys.meta_path.insert(0, "left"); signal.signal(signal.SIGTERM, lambda *a: None); os.umask(0)
os.mkdir("left"); os.chdir("left"); sys.setrecursionlimit(5000); signal.pthread_sigmask(signal.SIG_BLOCK, {10})
resource.setrlimit(resource.RLIMIT_NOFILE, (77, 77)); sys.setprofile(lambda *a: None); left = 1
os._exit(0)""",
    then=(CLEAN, CLEAN),
)
add(
    "state-left-in-session",
    "state left in modules, in a session",
    """
import builtins, json
builtins.left = 1; json.loads = lambda *a, **k: "left"; os.environ["LEFT"] = "1"; sys.modules["left_module"] = os
signal.signal(signal.SIGTERM, lambda *a: None); os.umask(0); sys.setrecursionlimit(5000); left = 1
os.mkdir("left"); os.chdir("left")""",
    then=(CLEAN, CLEAN),
    session=True,
)
add(
    "modules-planted",
    "modules of its own in the work folder, for what runs after it",
    """
text = "import os\\nos.write(1, b'GOT:planted code ran')\\n"
for name in ("json", "struct", "os", "site", "sitecustomize", "usercustomize", "traceback", "ast", "linecache", "matplotlib", "toolpost", "io",
             "codecs", "encodings", "signal", "socket", "warden", "program", "collect", "kernel", "errno", "selectors", "random", "matplotlib.pyplot"):
  open(name + ".py", "w").write(text)
os.makedirs("matplotlib", exist_ok=True); open("matplotlib/__init__.py", "w").write(text); open("matplotlib/pyplot.py", "w").write(text)
open("x.pth", "w").write("import os; os.write(1, b'GOT:pth')\\n"); os.symlink("/box", "/tmp/packages")
no("planted")""",
    then=("no('ran')",),
    session=True,
)
add(
    "files-planted",
    "input files that have the names of modules",
    "import sys as s\nno('ran')",
    files=dict.fromkeys(
        ("site.py", "sitecustomize.py", "usercustomize.py", "warden.py", "program.py", "_socket.py"),
        b"import os\nos.write(1, b'GOT:planted code ran\\n')\n",
    ),
)
add(
    "value-huge",
    "a last value whose text is huge",
    "class T:\n  def __repr__(self): return 'v' * (40 << 20)\nT()",
    ends=ANYHOW,
    check=lambda result: "a huge value" if result.value and len(result.value) > 1 << 20 else None,
)
add(
    "value-hangs",
    "a last value whose text never comes",
    "class T:\n  def __repr__(self):\n    while True: pass\nT()",
    ends=STOPPED,
    limits={"wall_s": 0.7},
)
add(
    "value-fails",
    "a last value whose text fails in odd ways",
    "class T:\n  def __repr__(self): raise SystemExit(9)\nT()",
    ends=FINISHED,
)
add(
    "value-odd",
    "a last value whose text is no text",
    "class S(str): pass\nclass T:\n  def __repr__(self): return S('\\ud800\\x00\\x1b[2J' * 10)\nT()",
    ends=FINISHED,
)
add(
    "value-dies",
    "a last value whose text ends the process",
    "class T:\n  def __repr__(self): os._exit(12)\nT()",
    ends=frozenset({"exit"}),
    check=exit_is(12),
)
add(
    "value-deep",
    "a last value nested deeper than the stack",
    "x = []\nfor _ in range(200000): x = [x]\nx",
    ends=FINISHED | frozenset({"signal"}),
)
add(
    "outputs-replaced",
    "outputs of its own making, which fail and hang",
    """
class W:
  encoding = "x"; errors = "y"
  def write(self, text): raise OSError("no")
  def flush(self): raise KeyboardInterrupt
  def fileno(self): return 999
  def __getattr__(self, name): raise SystemExit(3)
sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = W()""",
    ends=FINISHED,
)
add(
    "outputs-lock",
    "outputs whose lock is never given back",
    "import io\nclass W(io.StringIO):\n  def flush(self): time.sleep(60)\nsys.stdout = W()",
    ends=OK | STOPPED,
    limits={"wall_s": 0.8},
)
add(
    "hooks",
    "hooks that never end",
    "sys.excepthook = sys.unraisablehook = sys.displayhook = lambda *a: time.sleep(60)\nraise ValueError",
    ends=STOPPED | FINISHED,
    limits={"wall_s": 0.8},
)
add(
    "trace",
    "a trace that follows whatever runs after it",
    "def t(*a):\n  if len(a) and a[0].f_code.co_filename not in ('<string>', '<program>') : pass\n  return t\nsys.settrace(t); sys.setprofile(t)\nno('set')",
    ends=FINISHED,
)
add(
    "frames",
    "names and values of the frames above it",
    """
frame = sys._getframe(); depth = 0
while frame.f_back is not None:
  frame = frame.f_back; depth += 1
  for place in (frame.f_locals, frame.f_globals):
    for name, value in list(place.items()):
      text = repr(value)[:2000]
      if "canary-" in text or "@dir@" in text and name not in ("code", "source", "text", "request", "job", "program"): got(f"{name} = {text[:80]}")
no(f"{depth} frames")""",
    ends=FINISHED,
)
add(
    "frames-changed",
    "the frames above it, changed",
    """
frame = sys._getframe()
while frame.f_back is not None:
  frame = frame.f_back
  for name in list(frame.f_globals):
    if not name.startswith("__"): frame.f_globals[name] = None
  frame.f_globals["os"] = None
sys.exit(6)""",
    ends=frozenset({"exit"}),
    check=lambda result: None if result.exit_code else "a success",
)
add(
    "builtins-gone",
    "builtins taken from whatever runs after it",
    "import builtins\nfor name in dir(builtins):\n  if not name.startswith('__'): delattr(builtins, name)\n",
    ends=FINISHED | frozenset({"signal"}),
)
add(
    "audit-hook",
    "a hook that refuses whatever runs after it",
    "def hook(*a): raise RuntimeError('no')\nsys.addaudithook(hook)",
    ends=ANYHOW,
)
add(
    "garbage",
    "a finalizer that runs as the interpreter ends",
    "class T:\n  def __del__(self): time.sleep(60)\nx = T()",
    ends=OK | STOPPED,
    limits={"wall_s": 0.8},
)
add(
    "pid-cached",
    "numbers that a forked interpreter shares with the one that it came from",
    """
(no if os.getpid() == int(os.readlink("/proc/self")) else got)("pid")
(no if threading.get_native_id() == os.getpid() else got)("thread")
import tempfile; print(next(tempfile._get_candidate_names()))""",
    then=("import tempfile; print(next(tempfile._get_candidate_names()))\nno('told')",),
)
add("syntax", "a program that is none", "def (:", ends=frozenset({"exit"}), check=exit_is(1))
add("nul", "a program with bytes that no source may hold", "x = 1\0", ends=frozenset({"exit"}))
add(
    "nested",
    "a program too nested to compile",
    "x = " + "(" * 3000 + "1" + ")" * 3000,
    ends=frozenset({"exit", "signal"}),
)
add("surrogates", "a program that writes what no encoding has", "print('\\ud800')", ends=FINISHED)
add(
    "main-again",
    "its own module imported again",
    "import __main__\nprint(__main__.__name__, __name__)",
    check=said(b"__main__ __main__"),
)
add(
    "workers",
    "processes by multiprocessing, which use the whole machinery",
    """
from concurrent.futures import ThreadPoolExecutor
import subprocess
print(subprocess.run(["/bin/echo", "from a child"], capture_output=True, text=True).stdout)
with ThreadPoolExecutor(2) as pool: print(sum(pool.map(abs, range(10))))""",
    check=all_of(said(b"from a child"), said(b"45")),
)
