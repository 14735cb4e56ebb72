# ruff: noqa: E501  (programs keep their lines)
"""Programs that look for a way to talk with anything outside, or with each other."""

from tests.sandbox.escapes.case import ENDED, FINISHED, OK, Group

CASES = Group("network")
add = CASES.add

CONNECT = """
def connect(family, address, kind=socket.SOCK_STREAM):
  def action():
    with socket.socket(family, kind) as s:
      s.settimeout(1.5); s.connect(address); s.send(b"hello"); return "connected"
  refused(f"connect {address!r}", action)
"""

add("loopback", "TCP of the host's loopback", CONNECT + "connect(socket.AF_INET, ('127.0.0.1', @port@))", control=True)
add(
    "own-address",
    "TCP of the host's other address",
    CONNECT + "connect(socket.AF_INET, ('@lan@', @port@))",
    control=True,
)
add(
    "loopback-v6",
    "TCP of the host's loopback, by IPv6 and mapped addresses",
    CONNECT + "connect(socket.AF_INET6, ('::1', @port@)); connect(socket.AF_INET6, ('::ffff:127.0.0.1', @port@))",
    control=True,
)
add("any-address", "TCP of the address 0.0.0.0", CONNECT + "connect(socket.AF_INET, ('0.0.0.0', @port@))", control=True)
add(
    "outside",
    "addresses outside of the host",
    CONNECT
    + "connect(socket.AF_INET, ('192.0.2.1', 443)); connect(socket.AF_INET6, ('2001:db8::1', 443))\n"
    + "connect(socket.AF_INET, ('198.51.100.7', 80), socket.SOCK_DGRAM)",
)
add(
    "metadata",
    "the metadata service of clouds",
    CONNECT + "connect(socket.AF_INET, ('169.254.169.254', 80)); connect(socket.AF_INET6, ('fd00:ec2::254', 80))",
)
add(
    "datagrams",
    "datagrams to the host",
    """
def send(address):
  with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s: s.sendto(b"x", address); return "sent"
refused("loopback", lambda: send(("127.0.0.1", @udp@)))
refused("broadcast", lambda: send(("255.255.255.255", @udp@)))
time.sleep(0.1)""",
    control=True,
)
add(
    "names",
    "names of hosts",
    """
for name in ("example.com", "metadata.google.internal", "localhost.localdomain"):
  def look():
    found = socket.getaddrinfo(name, 80); return "" if all(one[4][0] in ("127.0.0.1", "::1") for one in found) else found
  refused(name, look, lambda value: not value)""",
    limits={"wall_s": 4.0},
)
add(
    "fast-open",
    "data in the first packet, past connect",
    """
def send(address):
  with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s: return s.sendto(b"x", 0x20000000, address)
refused("fast open", lambda: send(("127.0.0.1", @port@)))
time.sleep(0.1)""",
)
add(
    "raw",
    "raw and packet sockets",
    """
for family, kind, protocol in ((2, 3, 1), (2, 3, 255), (2, 3, 6), (10, 3, 58), (17, 3, 768), (17, 2, 3), (2, 10, 0)):
  refused((family, kind, protocol), lambda: socket.socket(family, kind, protocol).fileno())
refused("ping socket", lambda: socket.socket(2, 2, 1).fileno())""",
    control=True,
    ends=FINISHED,
)
add(
    "netlink",
    "every family of netlink",
    """
for protocol in range(23):
  def use():
    s = socket.socket(16, 3, protocol); s.bind((0, 0)); return "bound"
  refused(f"netlink {protocol}", use)""",
    control=True,
)
add(
    "families",
    "every other family of sockets",
    """
for family in range(3, 47):
  if family in (socket.AF_INET6,): continue
  for kind in (1, 2, 3, 5):
    try: made = C.socket(family, kind, 0)
    except OSError: continue
    if made >= 0: got(f"family {family} kind {kind}"); os.close(made)
no("tried")""",
    control=True,
)
add(
    "vsock",
    "a channel to the machine's supervisor",
    "for kind in (1, 2, 5): refused('vsock', lambda: socket.socket(40, kind, 0).fileno())\nno_write('/dev/vsock', '/dev/vhost-vsock')",
)
add(
    "io-uring",
    "system calls by a ring",
    "must_fail('io_uring_setup', 8, ctypes.create_string_buffer(120))",
    control=True,
)
add(
    "io-uring-sh",
    "a ring in a program of its own",
    "/usr/bin/python3 -c 'import ctypes; c = ctypes.CDLL(None); r = c.syscall(425, 8, ctypes.create_string_buffer(120)); "
    'print("GOT:ring" if r >= 0 else "NO:ring")\'; echo NO:tried',
    language="sh",
    control=True,
)
add(
    "unix-path",
    "the host's sockets with a path",
    CONNECT
    + """
for path in ("@dir@/socket", "/run/dbus/system_bus_socket", "/run/docker.sock", "/var/run/docker.sock", "/run/systemd/private",
             "/run/containerd/containerd.sock", "/run/podman/podman.sock", "/run/systemd/journal/socket", "/dev/log",
             "/tmp/.X11-unix/X0", "/run/user/0/bus"): connect(socket.AF_UNIX, path)""",
    control=True,
)
add(
    "unix-abstract",
    "the host's sockets without a path",
    CONNECT
    + "connect(socket.AF_UNIX, '\\0@abstract@'); connect(socket.AF_UNIX, '\\0@abstract@-letters', socket.SOCK_DGRAM)",
    control=True,
)
add(
    "unix-letters",
    "datagrams to the host's sockets without a path",
    """
def send():
  with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s: s.sendto(b"x", b"\\0@abstract@-letters"); return "sent"
refused("letter", send); time.sleep(0.1)""",
    control=True,
)
add(
    "descriptors-sent",
    "descriptors sent over every socket that it was given",
    """
import array
for d in range(0, 64):
  try:
    if not stat.S_ISSOCK(os.fstat(d).st_mode): continue
  except OSError: continue
  s = socket.socket(fileno=os.dup(d))
  try: s.sendmsg([b'{"kind": "result", "exit": 0}'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
  except OSError as error: no(f"{d} {error}"); continue
  got(f"sent to {d}")
no("looked")""",
)
add(
    "descriptors-received",
    "messages and descriptors taken from every socket that it was given",
    """
for d in range(0, 64):
  try:
    if not stat.S_ISSOCK(os.fstat(d).st_mode): continue
  except OSError: continue
  s = socket.socket(fileno=os.dup(d)); s.setblocking(False)
  try: data, rights, _, peer = s.recvmsg(65536, 4096)
  except OSError as error: no(f"{d} {error}"); continue
  if data or rights: got(f"{d}: {data[:80]!r} {len(rights)} {peer!r}")
no("looked")""",
)
add(
    "shell-tcp",
    "the shell's own way to TCP",
    "exec 3<>/dev/tcp/127.0.0.1/@port@ && echo GOT:tcp; echo NO:tried",
    language="bash",
    control=True,
    ends=FINISHED,
)
add(
    "programs",
    "programs that talk",
    """
for p in "curl -sm1 http://127.0.0.1:@port@/" "wget -qT1 -t1 -O- http://127.0.0.1:@port@/" "nc -w1 127.0.0.1 @port@" "ping -c1 -W1 127.0.0.1"
do timeout 2 $p >/dev/null 2>&1 </dev/null && echo "GOT:$p"; done
for p in "ip link set lo up" "ip addr" "ss -x" "ssh -o BatchMode=yes 127.0.0.1 true" "nsenter -t 1 -n true" "tcpdump -c1"
do timeout 2 $p 2>/dev/null </dev/null | grep -qE 'escapes-|127.0.0.1|@lan@' && echo "GOT:$p"; done; echo NO:tried""",
    language="sh",
)
add(
    "interfaces",
    "interfaces brought up, renamed and made",
    """
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM) if not isinstance(refused("a socket to ask with", lambda: socket.socket(2, 2).close() or "", lambda value: True), type(None)) else socket.socketpair()[0]
for what, order in (("lo up", 0x8914), ("address", 0x8916), ("hardware", 0x8924), ("bridge", 0x89a0), ("mtu", 0x8922), ("rename", 0x8923)):
  refused(what, lambda: fcntl.ioctl(s, order, struct.pack("16sH14s8s", b"lo", 1, b"", b"")))
no_write("/dev/net/tun")""",
)
add(
    "listens",
    "a listener that the host's processes could reach by mistake",
    """
for name in ("\\0hostile-@tag@",):
  s = socket.socket(socket.AF_UNIX); s.bind(name); s.listen(1); s.settimeout(0.6)
  try: s.accept(); got("the host connected")
  except OSError as error: no(error)""",
    ends=FINISHED,
)
add(
    "socket-options",
    "options that steer the host's network",
    """
a, b = socket.socketpair()
refused("mark", lambda: a.setsockopt(1, 36, 1) or "set"); refused("force buffer", lambda: a.setsockopt(1, 32, 1 << 30) or "set")
refused("bind to device", lambda: socket.socket(2, 2).setsockopt(1, 25, b"lo\\0") or "bound")
refused("transparent", lambda: socket.socket(2, 1).setsockopt(0, 19, 1) or "set")
refused("filter by program", lambda: a.setsockopt(1, 50, 3) or "set")
refused("netfilter", lambda: socket.socket(2, 3, 255).setsockopt(0, 64, b"x") or "set")""",
    ends=FINISHED,
)
add(
    "peers",
    "who is at the other end of its own streams",
    """
for d in (0, 1, 2):
  try:
    if not stat.S_ISSOCK(os.fstat(d).st_mode): no(f"{d} is no socket"); continue
  except OSError as error: no(error); continue
  s = socket.socket(fileno=os.dup(d))
  number = struct.unpack("3i", s.getsockopt(socket.SOL_SOCKET, 17, 12))[0]
  (got if number > 1 else no)(f"peer {number}")
  try: pidfd = s.getsockopt(socket.SOL_SOCKET, 77); got(f"a handle of the peer {pidfd}")
  except OSError as error: no(error)""",
)

NAME = "\\0hostile-@tag@-meet"
add(
    "neighbours-abstract",
    "two sandboxes that meet by a socket without a path",
    f"""
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.bind("{NAME}"); s.settimeout(1.5)
try: got(f"the other says {{s.recv(100)!r}}")
except OSError as error: no(error)""",
    beside=f"""
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
for _ in range(14):
  try: s.sendto(b"hello", "{NAME}"); got("sent to the other"); break
  except OSError as error: last = error
  time.sleep(0.1)
else: no(last)""",
    control=True,
    ends=FINISHED,
)
add(
    "neighbours-names",
    "names of sockets that another sandbox bound",
    """
for n in range(12):
  for table in ("/proc/self/net/unix", "/proc/net/unix"):
    try: text = read(table, 1 << 20)
    except OSError as error: no(error); continue
    if b"@hostile-@tag@-name" in text: got(f"{table} shows a name of the other")
  time.sleep(0.08)
s = socket.socket(socket.AF_UNIX)
try: s.bind("\\0hostile-@tag@-name"); no("bound the name as well")
except OSError as error: got(f"the other has the name: {error}")""",
    beside="""
s = socket.socket(socket.AF_UNIX); s.bind("\\0hostile-@tag@-name"); s.listen(1)
time.sleep(1.5)
no("held it")""",
    control=True,
)
add(
    "neighbours-tcp",
    "two sandboxes that meet by TCP",
    """
heard = 0
for family, address in ((2, ("0.0.0.0", 23456)), (10, ("::", 23456))):
  try:
    s = socket.socket(family); s.setsockopt(1, 2, 1)
    if family == 10: s.setsockopt(41, 26, 1)
    s.bind(address); s.listen(1); s.settimeout(0.7); s.accept(); got(f"the other connected by {family}")
  except OSError as error: no(error)""",
    beside="""
for _ in range(12):
  for family, address in ((2, ("127.0.0.1", 23456)), (10, ("::1", 23456)), (2, ("0.0.0.0", 23456))):
    try: s = socket.socket(family); s.settimeout(0.2); s.connect(address); got("connected to the other")
    except OSError as error: last = error
  time.sleep(0.1)
no(last)""",
    control=True,
    ends=FINISHED,
)
add(
    "neighbours-memory",
    "two sandboxes that meet by shared memory, queues and files",
    """
for n in range(12):
  for path in ("/dev/shm/hostile-@tag@-x", "/tmp/hostile-@tag@-x", "/var/tmp/hostile-@tag@-x"):
    if os.path.exists(path): got(path)
  shm, failed = call("shmget", @shmkey@ + 9, ctypes.c_size_t(4096), 0)
  if shm >= 0: got("a segment of the other")
  made = C.mq_open(b"/hostile-@tag@-x", os.O_RDWR)
  if made >= 0: got("a queue of the other")
  time.sleep(0.08)
no("waited")""",
    beside="""
for path in ("/dev/shm/hostile-@tag@-x", "/tmp/hostile-@tag@-x", "/var/tmp/hostile-@tag@-x"):
  try: open(path, "w").write("x")
  except OSError as error: no(error)
call("shmget", @shmkey@ + 9, ctypes.c_size_t(4096), 0o1666)
C.mq_open(b"/hostile-@tag@-x", os.O_CREAT | os.O_RDWR, 0o666, None)
time.sleep(0.9)
for path in ("/dev/shm/hostile-@tag@-x", "/tmp/hostile-@tag@-x", "/var/tmp/hostile-@tag@-x"):
  try: os.unlink(path)
  except OSError: pass
C.mq_unlink(b"/hostile-@tag@-x"); shm = call("shmget", @shmkey@ + 9, ctypes.c_size_t(4096), 0)[0]
if shm >= 0: call("shmctl", shm, 0, None)
no("left things")""",
    control=True,
)
add(
    "neighbours-processes",
    "two sandboxes of the same user that signal each other",
    """
for _ in range(10):
  for number in range(1, 3000):
    if number in (1, os.getpid()): continue
    try: os.kill(number, 0); got(f"process {number}")
    except OSError: pass
  time.sleep(0.05)
no("waited")""",
    beside="time.sleep(0.6); no('slept')",
)
add(
    "neighbours-files",
    "two sandboxes that lock and lease the same file of the system",
    """
d = os.open(os.__file__, os.O_RDONLY)
held = 0
for _ in range(10):
  try: fcntl.flock(d, fcntl.LOCK_EX | fcntl.LOCK_NB); fcntl.flock(d, fcntl.LOCK_UN)
  except OSError as error: held += 1
  time.sleep(0.05)
no(f"held by the other {held} times: a channel of bits that shared files have")""",
    beside="d = os.open(os.__file__, os.O_RDONLY); fcntl.flock(d, fcntl.LOCK_EX); time.sleep(0.6); no('held')",
    ends=OK | ENDED,
)
