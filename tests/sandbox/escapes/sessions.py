# ruff: noqa: E501  (programs keep their lines)
"""Programs that use a session: what they leave for the next one, and for whoever puts its input files there."""

from tests.sandbox.escapes.case import ANYHOW, ENDED, FINISHED, OK, Group, said

CASES = Group("sessions")
add = CASES.add
RUNS = "no('ran')\nprint('the next one runs')"

add(
    "files",
    "files stay in a session",
    "open('kept', 'w').write('x'); no('wrote')",
    then=("print('kept' if os.path.exists('kept') else 'lost'); no('looked')",),
    session=True,
    check=said(b"kept"),
)
add(
    "processes",
    "processes do not stay in a session",
    "if os.fork() == 0:\n  os.setsid(); time.sleep(30); os._exit(0)\nno('left one')",
    then=("seen = glob.glob('/proc/[0-9]*'); (got if len(seen) > 4 else no)(seen)",),
    session=True,
)
add(
    "poisoned-folder",
    "a work folder without rights",
    "open('x', 'w').close(); os.chmod('.', 0); os.chmod('/tmp', 0)",
    then=(RUNS,),
    then_files={"data.txt": b"data"},
    session=True,
    may_refuse=True,
    ends=OK | ENDED,
)
add(
    "input-through-link",
    "a link where the next input file goes",
    """
for name, target in (("data.txt", "/etc/passwd"), ("sub", "/etc"), ("up", "../../../tmp"), ("proc", "/proc/1")): os.symlink(target, name)
no("linked")""",
    then=("for path in ('/tmp/x.txt', '/etc/x.txt'):\n  if os.path.exists(path): got(path)\nno('looked')",),
    then_files={"data.txt": b"new", "sub/x.txt": b"new", "up/x.txt": b"new", "proc/x.txt": b"new"},
    session=True,
    may_refuse=True,
    ends=FINISHED,
)
add(
    "input-through-pipe",
    "a pipe where the next input file goes",
    "os.mkfifo('data.txt'); no('made')",
    then=(RUNS,),
    then_files={"data.txt": b"data"},
    session=True,
    may_refuse=True,
    within_s=10.0,
)
add(
    "input-through-socket",
    "a socket and a folder where the next input files go",
    "s = socket.socket(socket.AF_UNIX); s.bind('data.txt'); os.mkdir('other.txt'); open('other.txt/x', 'w').close(); no('made')",
    then=(RUNS,),
    then_files={"data.txt": b"data", "other.txt": b"data"},
    session=True,
    may_refuse=True,
    within_s=10.0,
)
add(
    "input-on-full-disk",
    "an input file on a full disk",
    """
try:
  for n in range(10):
    with open(f"f{n}", "wb", buffering=0) as file:
      while file.tell() < 15 << 20: file.write(b"x" * (1 << 20))
except OSError as error: no(error)""",
    then=(RUNS,),
    then_files={"data.txt": b"d" * (1 << 20)},
    session=True,
    may_refuse=True,
    ends=ANYHOW,
)
add(
    "disk-overall",
    "the disk's limit counts over a session",
    "open('a', 'wb').write(b'x' * (15 << 20)); open('b', 'wb').write(b'x' * (15 << 20)); no('wrote 30 MB')",
    then=(
        """
total = 0
try:
  for n in range(4): total += open(f"c{n}", "wb", buffering=0).write(b"x" * (15 << 20))
except OSError as error: no(error)
(got if total > 19 << 20 else no)(f"{total} more")""",
    ),
    session=True,
    ends=ANYHOW,
)
add(
    "pid-one-attacked",
    "pid 1 attacked between two programs",
    """
only_inside()
if os.fork() == 0:
  os.setsid()
  while True:
    for one in (9, 15, 19, 10, 17, 2): os.kill(1, one)
no("left an attacker")""",
    then=(RUNS,),
    session=True,
)
add(
    "stopped-and-left",
    "a program that ends in a session whose children were stopped",
    "child = os.fork()\nif child == 0: os.kill(os.getpid(), 19); time.sleep(9)\nos.waitpid(child, os.WUNTRACED); no('left')",
    then=(RUNS,),
    session=True,
)
add(
    "shared-memory-left",
    "shared memory and queues left in a session do not outlive it",
    """
made = call("shmget", @shmkey@ + 3, ctypes.c_size_t(4096), 0o1666); queue = call("msgget", @shmkey@ + 3, 0o1666)
open("/dev/shm/hostile-@tag@", "w").write("x"); C.mq_open(b"/hostile-@tag@", os.O_CREAT | os.O_RDWR, 0o666, None)
no(f"{made} {queue}")""",
    then=("os.listdir('/dev/shm'); no('looked')",),
    session=True,
    ends=FINISHED,
)
add(
    "killed-program",
    "a program that was killed leaves its session usable",
    "os.kill(os.getpid(), 9)",
    then=(RUNS,),
    session=True,
    may_refuse=True,
)
add(
    "memory-left",
    "memory left in files of a session counts",
    "open('a', 'wb').write(b'x' * (15 << 20)); no('wrote')",
    then=("x = bytearray(100 << 20); x[::4096] = b'1' * len(x[::4096]); no('touched')",),
    session=True,
    ends=ANYHOW,
)
add(
    "environment-of-next",
    "an environment file and start-up files of shells",
    """
for name in (".profile", ".bashrc", ".bash_profile", ".shrc", ".pythonrc", ".inputrc", "pyvenv.cfg", "python.pth"):
  open(name, "w").write("echo GOT:start-up file ran\\nimport os; os.write(1, b'GOT:x')\\n")
os.makedirs(".local/lib/python3.11/site-packages", exist_ok=True)
open(".local/lib/python3.11/site-packages/usercustomize.py", "w").write("print('GOT:user site ran')")
no("planted")""",
    then=("import subprocess\nsubprocess.run(['/bin/sh', '-c', 'echo NO:shell'])\nno('ran')",),
    session=True,
)
