"""An image for containers of the tests: empty folders, in which the system's programs are shown. Nothing is pulled."""

import io
import shutil
import subprocess
import tarfile

NAME = "localhost/toolpost-test"
SHOWN = ("--volume", "/usr:/usr:ro")
_FOLDERS = ("usr", "etc", "proc", "dev", "sys", "tmp", "run", "var", "var/tmp", "opt", "root", "home")
_LINKS = ("bin", "sbin", "lib", "lib64")


def tar() -> bytes:
    """The image's root file system."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in _FOLDERS:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name.endswith("tmp") else 0o755
            archive.addfile(entry)
        for name in _LINKS:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, f"usr/{name}"
            archive.addfile(entry)
    return out.getvalue()


def podman(*runtimes: str) -> str:
    """The first of these runtimes with which podman runs containers of the image here; "" where it does with none."""
    if shutil.which("podman") is None:
        return ""
    made = subprocess.run(["podman", "import", "--quiet", "-", NAME], input=tar(), capture_output=True, check=False)
    if made.returncode:
        return ""
    found = (shutil.which(one) for one in runtimes or ("crun", "runc"))
    return next((one for one in found if one and _runs(one)), "")


def _runs(runtime: str) -> bool:
    words = ["podman", "--runtime", runtime]
    words += ["--runtime-flag", "network=none"] if runtime.endswith("runsc") else []
    words += ["run", "--rm", "--network", "none", "--pull", "never", *SHOWN]
    words += ["--ulimit", "nofile=256:256", "--ulimit", "nproc=4096:4096", "--memory", "512m", NAME, "/usr/bin/true"]
    return subprocess.run(words, capture_output=True, timeout=60, check=False).returncode == 0
