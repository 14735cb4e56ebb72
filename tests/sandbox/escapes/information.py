# ruff: noqa: E501  (programs keep their lines)
"""Programs that look for what they should not know."""

from tests.sandbox.escapes.case import ENDED, FINISHED, OK, Group

CASES = Group("information")
add = CASES.add

add(
    "environment",
    "the engine's environment",
    """
allowed = {"PATH", "HOME", "TMPDIR", "LANG", "MPLBACKEND", "PYTHONDONTWRITEBYTECODE", "PYTHONIOENCODING", "PWD", "SHLVL", "_",
           "LC_CTYPE", "OLDPWD", "PYTHONHASHSEED"}
for name, value in os.environ.items():
  (no if name in allowed else got)(f"{name}={value[:60]}")
no("looked")""",
    control=True,
)
add(
    "environment-sh",
    "the engine's environment, in the shell",
    "env; env | grep -q CANARY && echo GOT:environment; env | grep -q canary- && echo GOT:value; echo NO:looked",
    language="sh",
    control=True,
)
add(
    "environment-block",
    "the first environment of every process in sight",
    """
for path in glob.glob("/proc/[0-9]*/environ") + ["/proc/self/environ"]:
  if outside() and path not in ("/proc/@victim@/environ",): continue
  try: text = read(path, 1 << 20)
  except OSError as error: no(f"{path} {error}"); continue
  (got if b"CANARY" in text or b"canary-" in text else no)(path)""",
    control=True,
)
add(
    "environment-shell",
    "the first environment of the shell's processes",
    "cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n' | grep -q CANARY && echo GOT:environ; echo NO:looked",
    language="sh",
)
add(
    "descriptors",
    "descriptors that were left open",
    """
for d in range(3, 1024):
  try: kind = os.fstat(d)
  except OSError: continue
  try: where = os.readlink(f"/proc/self/fd/{d}")
  except OSError: where = "?"
  got(f"{d} is {where}")
no("looked")""",
    control=True,
)
add(
    "descriptors-sh",
    "descriptors that a program of its own inherits",
    """
n=3; while [ $n -lt 250 ]; do if [ -e /proc/self/fd/$n ] && [ $n -ne 255 ]; then
  case "$(readlink /proc/$$/fd/$n)" in "" | /dev/null) ;; *) echo "GOT:$n $(readlink /proc/$$/fd/$n)";; esac; fi; n=$((n+1)); done
echo NO:looked""",
    language="sh",
    control=True,
)
add(
    "hostname",
    "the host's name",
    """
(got if os.uname().nodename == "@host@" else no)(os.uname().nodename)
for path in ("/etc/hostname", "/proc/sys/kernel/hostname"):
  try: text = read(path).decode().strip()
  except OSError as error: no(error); continue
  (got if text == "@host@" else no)(text)""",
    control=True,
)
add(
    "watches",
    "what others do with the files that all see",
    """
made = C.inotify_init()
if made < 0: no(name_of(ctypes.get_errno()))
elif C.inotify_add_watch(made, b"/usr/bin", 0xfff) < 0: no(name_of(ctypes.get_errno()))
else: got("told of every program that is started")
made, failed = call("fanotify_init", 0, 0)
(got if made >= 0 and not outside() else no)(f"fanotify {made} {failed}")""",
    control=True,
)
add(
    "processes",
    "other processes",
    """
seen = glob.glob("/proc/[0-9]*")
(got if len(seen) > 4 else no)(f"{len(seen)} processes")
for number in (@victim@, @engine@):
  for name in ("cmdline", "status", "stat", "maps", "cwd", "fd"):
    refused(f"/proc/{number}/{name}", lambda: os.stat(f"/proc/{number}/{name}"))
count = 0
for number in range(1, 5000):
  try: os.kill(number, 0); count += 1
  except ProcessLookupError: pass
  except OSError: count += 1
(got if count > 4 else no)(f"{count} numbers are taken")""",
    control=True,
)
add(
    "first-process",
    "everything of the first process",
    """
for name in ("exe", "root", "cwd", "ns/mnt", "ns/user", "ns/net"):
  try: no(name + " " + os.readlink("/proc/1/" + name))
  except OSError as error: no(error)
for name in ("mem", "maps", "environ", "auxv", "smaps", "numa_maps", "pagemap", "stack", "syscall", "io", "timers", "patch_state"):
  refused("/proc/1/" + name, lambda: read("/proc/1/" + name), lambda value: not value)
for d in range(40):
  refused(f"/proc/1/fd/{d}", lambda: os.readlink(f"/proc/1/fd/{d}"))
  refused(f"/proc/1/fd/{d}", lambda: os.close(os.open(f"/proc/1/fd/{d}", os.O_RDONLY | os.O_NONBLOCK)) or "opened")
refused("/proc/1/map_files", lambda: os.listdir("/proc/1/map_files"), lambda value: not value)""",
)
add(
    "own-memory",
    "secrets of the engine in this very process",
    """
import gc, re
pattern = re.compile(b"canar" + b"y-[0-9a-f]{24}")
found = 0; scanned = 0
with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", buffering=0) as memory:
  for line in maps.read().splitlines():
    place, rights = line.split()[:2]
    low, high = (int(n, 16) for n in place.split("-"))
    if "r" not in rights or "[v" in line or high - low > 64 << 20: continue
    try: memory.seek(low); text = memory.read(high - low)
    except (OSError, ValueError, OverflowError): continue
    scanned += len(text); found += len(pattern.findall(text))
(got if found else no)(f"{found} in {scanned} bytes")""",
    ends=FINISHED,
    control=True,
)
add(
    "kernel-log",
    "the kernel's log",
    """
no_read("/dev/kmsg", "/proc/kmsg", "/var/log/kern.log", "/var/log/dmesg", "/sys/fs/pstore")
must_fail("syslog", 3, ctypes.create_string_buffer(4096), 4096); must_fail("syslog", 10, None, 0)""",
    control=True,
)
add(
    "kernel-files",
    "what the kernel says of the machine",
    """
for path in ("/proc/kcore", "/proc/kallsyms", "/proc/iomem", "/proc/ioports", "/proc/config.gz", "/proc/keys", "/proc/key-users",
             "/proc/timer_list", "/proc/sched_debug", "/proc/slabinfo", "/proc/vmallocinfo", "/proc/kpagecount", "/proc/cmdline",
             "/proc/modules", "/proc/partitions", "/proc/diskstats", "/proc/interrupts", "/proc/locks", "/proc/pagetypeinfo",
             "/sys/class/dmi/id/product_name", "/sys/kernel/vmcoreinfo", "/sys/class/net", "/sys/block", "/sys/firmware",
             "/proc/acpi", "/proc/scsi/scsi", "/proc/bus/pci/devices", "/proc/asound", "/proc/sysvipc/shm"):
  def look():
    if os.path.isdir(path): return os.listdir(path)
    return read(path)
  def fine(value): return not value or (path.startswith("/proc/sysvipc") and len(value.splitlines()) == 1) or (
    path == "/proc/key-users" or path == "/proc/keys") and False
  refused(path, look, fine)""",
    control=True,
)
add(
    "sysv-memory",
    "shared memory of the host, by its key",
    """
shm, failed = call("shmget", @shmkey@, ctypes.c_size_t(4096), 0)
if shm < 0: no(failed)
else:
  at = C.shmat(shm, None, 0o10000)
  (got if at not in (None, NOWHERE) and b"canary-" in ctypes.string_at(at, 40) else no)("attached")
for number in range(0, 2000):
  at = C.shmat(number, None, 0o10000)
  if at not in (None, NOWHERE): got(f"segment {number}"); break
no("looked")""",
    control=True,
    ends=FINISHED,
)
add("shm-file", "shared memory of the host, by its name", "no_read('@shm@')\nno_write('@shm@')", control=True)
add(
    "message-queue",
    "a message queue of the host",
    """
made = C.mq_open(b"@queue@", os.O_RDWR)
(no if made < 0 else got)(f"mq_open {made}")
for path in ("/dev/mqueue",):
  refused(path, lambda: os.listdir(path), lambda value: not value)""",
    control=True,
)
add(
    "keys",
    "keys of the host",
    """
must_fail("request_key", b"user", b"@key@", None, 0)
result, failed = call("keyctl", 10, -3, b"user", b"@key@", 0)
(no if result < 0 else got)(f"search {result} {failed}")
must_fail("keyctl", 0, -3, 0); must_fail("keyctl", 0, -4, 1); must_fail("keyctl", 6, -3, None, 0)
must_fail("add_key", b"user", b"hostile-@tag@", b"x", ctypes.c_size_t(1), -4)""",
    control=True,
)
add(
    "identity",
    "its user, groups and the map of users",
    """
no(f"uid {os.getuid()} gid {os.getgid()}")
(got if len(os.getgroups()) > 1 or os.getgroups() not in ([], [os.getgid()], [65534]) else no)(f"groups {os.getgroups()}")
(got if 0 in (os.getuid(), os.geteuid(), os.getgid(), os.getegid()) else no)("ids")
for name in ("uid_map", "gid_map"):
  try: text = read("/proc/self/" + name).decode().split()
  except OSError as error: no(error); continue
  (got if text[1:2] == ["0"] and int(text[2]) > 1 else no)(f"{name} {text}")""",
    control=True,
)
add(
    "network-names",
    "the host's interfaces, addresses and neighbours",
    """
seen = socket.if_nameindex()
(got if any(name not in ("lo",) for _, name in seen) else no)(seen)
for path in ("/proc/net/tcp", "/proc/net/unix", "/proc/net/route", "/proc/net/arp", "/proc/net/fib_trie", "/proc/net/udp"):
  try: text = read(path, 1 << 20).decode()
  except OSError as error: no(error); continue
  (got if f"{@port@:04X}" in text or "escapes-" in text or "@lan@" in text else no)(path)""",
    control=True,
    ends=FINISHED,
)
add(
    "cgroup-names",
    "names of the host's groups",
    """
for path in ("/proc/self/cgroup", "/proc/1/cgroup"):
  try: text = read(path).decode()
  except OSError as error: no(error); continue
  for line in text.splitlines():
    place = line.split(":", 2)[2]
    (got if place.strip("/") and "toolpost" in place else no)(line)
no("looked")""",
)
add(
    "command-lines",
    "paths of the host in the command lines in sight",
    """
for path in glob.glob("/proc/[0-9]*/cmdline"):
  try: text = read(path).replace(b"\\0", b" ").decode()
  except OSError as error: no(error); continue
  (got if "@dir@" in text and str(os.getpid()) not in path else no)(f"{path} {text[:60]}")""",
)
add(
    "own-start",
    "paths of the host in how it was started",
    """
for word in [sys.executable, sys.prefix, *sys.path, *sys.argv, os.getcwd(), getattr(sys, "_base_executable", "")]:
  (got if "@dir@" in word or "toolpost" in word else no)(word)""",
    ends=FINISHED,
)
add(
    "launcher-objects",
    "objects of the launcher in this very process",
    """
import gc
for thing in gc.get_objects():
  for d in (thing.fileno(),) if isinstance(thing, socket.socket) else ():
    try: os.fstat(d); got(f"an open socket {thing!r}")
    except (OSError, ValueError): pass
  for name, value in list(thing.items()) if type(thing) is dict else ():
    if isinstance(value, bytes) and (b"@dir@" in value or b"canar" + b"y-" in value): got(f"{name!r}")
for name in list(sys.modules):
  if name.startswith("toolpost"): got("module " + name)
no("looked")""",
    ends=FINISHED,
)
add(
    "hash-seed",
    "random numbers and hashes that two programs share",
    "import random, uuid\nprint(hash('x'), random.random(), uuid.uuid4(), os.urandom(8).hex())\nno('told')",
    then=("import random, uuid\nprint(hash('x'), random.random(), uuid.uuid4(), os.urandom(8).hex())\nno('told')",),
)
add(
    "pagemap",
    "physical addresses and idle pages",
    """
refused("pagemap", lambda: [n for n in struct.unpack("64Q", read("/proc/self/pagemap", 512)) if n & ((1 << 55) - 1) and n >> 63],
        lambda value: not value)
no_read("/proc/kpageflags", "/sys/kernel/mm/page_idle/bitmap", "/proc/kpagecgroup")""",
    ends=OK | ENDED,
)
add(
    "timing-of-others",
    "the machine's counters",
    """
must_fail("perf_event_open", struct.pack("IIQQQQ", 1, 112, 0, 0, 0, 0) + b"\\0" * 72, 0, -1, -1, 0)
must_fail("perf_event_open", struct.pack("IIQQQQ", 1, 112, 0, 0, 0, 0) + b"\\0" * 72, -1, 0, -1, 0)
no_read("/sys/kernel/tracing/trace", "/sys/kernel/debug/tracing/trace", "/proc/pressure/cpu", "/proc/schedstat")""",
    control=True,
)
