# ruff: noqa: E501  (programs keep their lines)
"""Programs that look for files of the host, or try to change what they see of it."""

from tests.sandbox.escapes.case import ENDED, FINISHED, OK, Group

CASES = Group("files")
add = CASES.add

add(
    "canaries",
    "files of the host, readable by all or by their owner alone",
    "no_read('@dir@/world', '@dir@/private', '/root/.profile', '/root/.bashrc', '@dir@/../@dir@/world')",
    control=True,
)
add(
    "upwards",
    "upwards out of the work folder",
    """
for start in (".", "/tmp", "/dev/shm", "/proc/self/cwd", "/proc/self/root"):
  no_read(start + "/.." * 12 + "@dir@/world")""",
    control=True,
)
add(
    "roots-of-others",
    "the roots and folders of every process in sight",
    """
for process in glob.glob("/proc/[0-9]*") + ["/proc/self/task/" + str(os.getpid()), "/proc/thread-self"]:
  for way in ("root", "cwd"): no_read(f"{process}/{way}@dir@/world")""",
    control=True,
)
add(
    "descriptors-upwards",
    "upwards from every open descriptor",
    """
for d in range(64):
  try:
    kind = os.fstat(d).st_mode
  except OSError: continue
  refused(f"from {d}", lambda: os.open("../" * 10 + "@dir@/world", os.O_RDONLY, dir_fd=d))
  refused(f"by /proc {d}", lambda: read(f"/proc/self/fd/{d}/" + "../" * 10 + "@dir@/world"))
no("looked")""",
)
add(
    "chroot",
    "out of a chroot by an older descriptor",
    """
os.mkdir("c")
def out():
  top = os.open("/", os.O_RDONLY | os.O_DIRECTORY); os.chroot("c"); os.fchdir(top)
  for _ in range(30): os.chdir("..")
  os.chroot("."); return read("@dir@/world")
refused("chroot", out)""",
    control=True,
)
add(
    "system-written",
    "the system's folders",
    """
for folder in ("/", "/usr", "/usr/bin", "/usr/lib", "/bin", "/lib", "/etc", "/var", "/opt", "/opt/packages", "/run", "/dev",
               "/proc", "/proc/sys", "/sys", "/home", "/root", "/mnt", "/srv", "/usr/local", os.path.dirname(os.__file__)):
  refused(folder, lambda: os.close(os.open(folder + "/escaped-@tag@", os.O_CREAT | os.O_WRONLY)) or folder)""",
)
add(
    "system-changed",
    "changes to files of the system",
    """
for action in (
  lambda: os.unlink("/etc/passwd"), lambda: os.rename("/etc/passwd", "/etc/passwd2"), lambda: os.chmod("/etc/passwd", 0o666),
  lambda: os.chown("/etc/passwd", os.getuid(), os.getgid()), lambda: os.utime("/etc/passwd"),
  lambda: os.truncate("/usr/bin/env", 0), lambda: os.link("/etc/passwd", "p"), lambda: os.rmdir("/opt"),
  lambda: os.setxattr("/etc/passwd", "user.x", b"1"), lambda: os.symlink("/tmp", "/etc/escaped-@tag@"),
  lambda: os.rename("/usr", "/usr2"), lambda: os.link("/usr/bin/env", "/tmp/env"),
): refused("change", lambda: action() or "done")""",
)
add(
    "writable-everywhere",
    "every folder is tried for a place to leave something in",
    """
own = ("/box", "/tmp", "/var/tmp", "/dev/shm", "/proc", "/sys")
count = 0
for folder, names, _ in os.walk("/"):
  if folder.startswith(own) or folder.count("/") > 5: names[:] = []; continue
  count += 1
  try: os.mkdir(folder + "/escaped-@tag@")
  except OSError: continue
  got("made a folder in " + folder); os.rmdir(folder + "/escaped-@tag@")
no(f"{count} folders")""",
    limits={"wall_s": 30.0, "cpu_s": 30.0},  # however many folders there are, and however slow the disk is
)
add(
    "remount",
    "remounts and unmounts of what is over other things",
    """
for target in (b"/", b"/proc", b"/usr", b"/etc", b"/box", b"/tmp", b"/dev", b"/dev/shm", b"/sys", b"/proc/sys", b"/proc/kcore"):
  must_fail("umount2", target, 2)
  must_fail("mount", None, target, None, ctypes.c_ulong(32 | 4096), None)
  must_fail("mount", None, target, None, ctypes.c_ulong(32), None)
  must_fail("mount", None, target, None, ctypes.c_ulong(1 << 20), None)""",
)
add(
    "mounts",
    "new mounts of every useful kind",
    """
os.mkdir("m")
for kind in (b"tmpfs", b"proc", b"sysfs", b"devpts", b"overlay", b"cgroup", b"cgroup2", b"ext4", b"fuse", b"bpf", b"mqueue",
             b"debugfs", b"tracefs", b"securityfs", b"binfmt_misc", b"devtmpfs", b"9p", b"nfs", b"virtiofs"):
  must_fail("mount", b"none", b"/box/m", kind, ctypes.c_ulong(0), None)
must_fail("mount", b"/usr", b"/box/m", None, ctypes.c_ulong(4096), None)
must_fail("mount", b"/proc/1/root", b"/box/m", None, ctypes.c_ulong(4096), None)
must_fail("pivot_root", b"/box", b"/box/m"); must_fail("chroot", b"/box/m")""",
)
add(
    "mounts-new",
    "the new calls for mounts",
    """
must_fail("fsopen", b"tmpfs", 0); must_fail("fsopen", b"proc", 0); must_fail("fspick", HERE, b"/", 0)
must_fail("open_tree", HERE, b"/", 1 | 0x8000); must_fail("open_tree", HERE, b"/usr", 1)
must_fail("move_mount", HERE, b"/usr", HERE, b"/box", 0)
must_fail("mount_setattr", HERE, b"/usr", 0x8000, struct.pack("QQQQ", 0, 1, 0, 0), 32)
must_fail("fsconfig", 0, 6, None, None, 0); must_fail("fsmount", 0, 0, 0)
must_fail("statmount", struct.pack("IIQQQ", 24, 0, 1, 1, 0), ctypes.create_string_buffer(512), 512, 0)
must_fail("listmount", struct.pack("IIQQQ", 24, 0, (1 << 64) - 1, 0, 0), ctypes.create_string_buffer(512), 64, 0)""",
)
add(
    "propagation",
    "mounts that would propagate to or from the host",
    """
try: text = read("/proc/self/mountinfo", 1 << 20).decode()
except OSError as error: no(error); text = ""
while "\\n" in text:
  line, _, text = text.partition("\\n")
  fields = line.split(" - ")[0].split()[6:]
  if any(f.startswith("shared:") for f in fields): got("shared: " + line)
no("looked")""",
)
add(
    "mount-table",
    "paths of the host in the table of mounts",
    """
for name in ("mountinfo", "mounts", "mountstats"):
  try: text = read("/proc/self/" + name, 1 << 20).decode()
  except OSError as error: no(error); continue
  for word in ("@dir@", "escapes-"):
    if word in text: got(f"{word} in {name}: " + next(l for l in text.splitlines() if word in l))
no("looked")""",
)
add(
    "nodes",
    "device nodes of its own making",
    """
must_fail("mknodat", HERE, b"/box/disk", 0o60666, (254 << 8)); must_fail("mknodat", HERE, b"/box/mem", 0o20666, (1 << 8) | 1)
must_fail("mknodat", HERE, b"/tmp/kmsg", 0o20666, (1 << 8) | 11); must_fail("mknodat", HERE, b"/dev/shm/null", 0o20666, 259)
must_fail("mknod", b"/box/vsock", 0o20666, (10 << 8) | 241)""",
)
add(
    "devices",
    "devices beyond the harmless ones",
    """
harmless = {"null", "zero", "full", "random", "urandom", "fd", "stdin", "stdout", "stderr", "shm"}
try: names = os.listdir("/dev")
except OSError as error: no(error); names = []
for name in names:
  (no if name in harmless else got)("/dev/" + name)
no_write("/dev/mem", "/dev/kmsg", "/dev/kvm", "/dev/fuse", "/dev/loop-control", "/dev/net/tun", "/dev/vhost-vsock", "/dev/vsock",
         "/dev/vda", "/dev/sda", "/dev/userfaultfd", "/dev/uinput", "/dev/tty", "/dev/ptmx", "/dev/pts/ptmx", "/dev/console",
         "/dev/tty0", "/dev/hwrng", "/dev/port", "/dev/mapper/control", "/dev/autofs", "/dev/btrfs-control")""",
    control=True,
)
add(
    "handles",
    "files by handle instead of by name",
    """
buffer = ctypes.create_string_buffer(136); struct.pack_into("I", buffer, 0, 128); mount = ctypes.c_int()
result, failed = call("name_to_handle_at", HERE, b"/usr", buffer, ctypes.byref(mount), 0); no(f"name_to_handle_at {result} {failed}")
top = os.open("/usr", os.O_RDONLY)
for inode in (2, 1, 128):
  handle = struct.pack("IiIII", 12, 1, inode, 0, 0)
  must_fail("open_by_handle_at", top, handle, os.O_RDONLY)
must_fail("open_by_handle_at", top, buffer, os.O_RDONLY)""",
)
add(
    "links-out",
    "symbolic links to the host",
    """
os.symlink("@dir@", "d"); os.symlink("@dir@/world", "/tmp/w"); os.symlink("/proc/1/root", "/dev/shm/r")
no_read("d/world", "/tmp/w", "/dev/shm/r@dir@/world")""",
    control=True,
)
add(
    "setuid-files",
    "files that would run as their owner",
    """
open("s", "w").close(); os.mkdir("g")
refused("chmod", lambda: os.chmod("s", 0o6755))
must_fail("fchmodat", HERE, b"/box/s", 0o4755); must_fail("fchmodat2", HERE, b"/box/s", 0o2755, 0)
refused("fchmod", lambda: os.fchmod(os.open("s", os.O_RDONLY), 0o4755))
refused("setgid folder", lambda: os.chmod("g", 0o2777))
for make in (lambda: os.open("t", os.O_CREAT | os.O_WRONLY, 0o6755), lambda: os.mkdir("h", 0o6777),
             lambda: os.mknod("n", 0o106755), lambda: os.mkfifo("f", 0o6755)):
  try: make()
  except OSError as error: no(error)
result, failed = call("openat2", HERE, b"/box/u", struct.pack("QQQ", 0o101, 0o4755, 0), 24); no(f"openat2 {result} {failed}")
for name in os.listdir("."):
  if os.lstat(name).st_mode & 0o6000: got(f"{name} has {os.lstat(name).st_mode:o}")""",
)
add(
    "capabilities-on-files",
    "capabilities as attributes of files",
    """
import shutil
shutil.copy("/bin/true", "cap"); value = struct.pack("<IIIII", 0x02000001, 0xffffffff, 0, 0xffffffff, 0)
refused("security.capability", lambda: os.setxattr("cap", "security.capability", value) or "set")
refused("trusted.x", lambda: os.setxattr("cap", "trusted.x", b"1") or "set")
refused("system.posix_acl", lambda: os.setxattr("cap", "security.selinux", b"1") or "set")""",
    ends=FINISHED,
)
add(
    "secrets-of-the-system",
    "files of the system that hold secrets",
    """
no_read("/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/ssh/ssh_host_rsa_key", "/etc/ssh/ssh_host_ed25519_key",
        "/etc/machine-id", "/var/lib/dbus/machine-id", "/etc/krb5.keytab", "/root/.ssh/id_rsa", "/root/.aws/credentials",
        "/run/secrets/kubernetes.io/serviceaccount/token", "/var/run/secrets/kubernetes.io/serviceaccount/token",
        "/root/.docker/config.json", "/root/.netrc", "/etc/ssl/private/ssl-cert-snakeoil.key", "/etc/passwd-", "/etc/shadow-")""",
    control=True,
)
add(
    "engine-sources",
    "the engine itself, its environment and its run folders",
    """
import importlib
for name in ("toolpost", "toolpost.sandbox.launcher", "pydantic"):
  try: importlib.import_module(name); got("imported " + name)
  except ImportError as error: no(error)
for module in list(sys.modules.values()):
  name = getattr(module, "__name__", "")
  if name.startswith("toolpost"): got("loaded " + name)
for path in sys.path:
  if "site-packages" in path and os.path.isdir(path) and os.listdir(path): got(path)
for folder in ("/srv", "/home", "/root", "/mnt", "/media", "/var/log", "/var/lib", "/var/cache", "/var/spool"):
  try: names = os.listdir(folder)
  except OSError as error: no(error); continue
  (got if names else no)(f"{folder} holds {names[:5]}")""",
    control=True,
)
add(
    "memory-file-run",
    "a program run from memory keeps every rule",
    """
code = b"#!/bin/sh\\ngrep -E 'NoNewPrivs|Seccomp:|CapEff' /proc/self/status; cat @dir@/world && echo GOT:canary\\nexit 0\\n"
made, failed = call("memfd_create", b"p", 0)
if made < 0: no(failed); os._exit(0)
os.write(made, code)
try: os.execve(made, ["p"], {"PATH": "/usr/bin:/bin"})
except OSError as error: no(error)""",
    check=lambda result: (
        "rules were lost"
        if b"CapEff" in result.stdout.whole and b"CapEff:\t0000000000000000" not in result.stdout.whole
        else None
    ),
    ends=FINISHED,
)
add(
    "run-from-work",
    "a program of its own keeps every rule",
    """
import shutil
shutil.copy("/bin/cat", "cat"); os.chmod("cat", 0o755)
try: os.execv("/box/cat", ["cat", "@dir@/world", "/proc/self/status"])
except OSError as error: no(error)""",
    ends=FINISHED,
)
add(
    "fresh-folder",
    "what one program leaves, the next does not see",
    """
for folder in (".", "/tmp", "/var/tmp", "/dev/shm"):
  try: open(folder + "/left-@tag@", "w").write("x")
  except OSError as error: no(error)
no("left something")""",
    then=(
        """
for folder in (".", "/tmp", "/var/tmp", "/dev/shm"):
  for name in os.listdir(folder):
    if name.startswith("left-"): got(f"{folder}/{name}")
no("looked")""",
    ),
)
add(
    "locked-for-others",
    "locks and leases on files that all sandboxes share",
    """
d = os.open("/etc/passwd", os.O_RDONLY)
refused("a lease", lambda: fcntl.fcntl(d, 1024, fcntl.F_WRLCK) or "held")
no("tried")""",
    ends=OK | ENDED,
)
add(
    "shell-reads",
    "files of the host, by the shell",
    "cat @dir@/world @dir@/private /proc/1/root@dir@/world 2>/dev/null && echo GOT:read; ls @dir@ 2>/dev/null && echo GOT:listed; echo NO:done",
    language="sh",
    control=True,
)
