"""A MongoDB server in memory: mongo-java-server by Maven, which speaks the protocol but is not MongoDB itself."""

import hashlib
import shutil
import struct
import subprocess
from pathlib import Path

from tests.services.server import CACHE, HOST, Missing, Server, ask

FOLDER = Path(__file__).with_name("mongo")
POM = FOLDER / "pom.xml"


class Mongo(Server):
    """Nothing outlives its process, and it knows no users."""

    name = "mongo"
    variable = "TOOLPOST_TEST_MONGO"
    keeps_data = False

    @classmethod
    def find(cls) -> Path:
        """The file that holds the classpath."""
        programs = [name for name in ("java", "javac") if not shutil.which(name)]
        if programs:
            raise Missing(f"install a JDK with {' and '.join(programs)}, or set {cls.variable} to a server's URL")
        path = classpath_file()
        if not path.exists() or not all(Path(jar).exists() for jar in path.read_text().split(":")):
            raise Missing(
                f"its jars are not here: install Maven and run 'make prepare', or set {cls.variable} to a server's URL"
            )
        return path

    @classmethod
    def prepare(cls) -> None:
        try:
            cls.find()
        except Missing:
            if not (shutil.which("javac") and shutil.which("mvn")):
                raise
            resolve()
            cls.find()

    def command(self, folder: Path) -> list[str]:
        # The process lives for seconds: compile little, and take no gigabytes.
        options = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m", "-cp", self.find().read_text()]
        return ["java", *options, str(FOLDER / "Serve.java"), str(self.port)]

    def answers(self) -> bool:
        """Whether it answers `hello` with a message of its own. Source: the wire protocol's OP_MSG, opcode 2013."""
        fields = b"\x10hello\0" + struct.pack("<i", 1) + b"\x02$db\0" + struct.pack("<i", 6) + b"admin\0"
        document = struct.pack("<i", len(fields) + 5) + fields + b"\0"
        message = struct.pack("<4i", 16 + 5 + len(document), 1, 0, 2013) + struct.pack("<iB", 0, 0) + document
        return ask(self.port, message)[12:16] == struct.pack("<i", 2013)

    def own_url(self) -> str:
        return f"mongodb://{HOST}:{self.port}"


def classpath_file() -> Path:
    """Where the classpath for today's POM is kept."""
    return CACHE / f"mongo-{hashlib.sha256(POM.read_bytes()).hexdigest()[:12]}.classpath"


def resolve() -> None:
    """Let Maven download the jars and write their classpath. Raises Missing with its last words."""
    CACHE.mkdir(parents=True, exist_ok=True)
    print("downloading the jars of the tests' MongoDB server, once: half a minute", flush=True)
    command = ["mvn", "--batch-mode", "--quiet", "--file", str(POM), "dependency:build-classpath"]
    run = subprocess.run([*command, f"-Dmdep.outputFile={classpath_file()}"], capture_output=True, text=True)
    if run.returncode:
        errors = [line for line in run.stdout.splitlines() if "ERROR" in line]
        raise Missing(
            f"Maven cannot download its jars ({' '.join(errors[:1])}); set {Mongo.variable} to a server's URL"
        )
