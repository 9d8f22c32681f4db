"""A Java that is new enough, and Kafka's jars, copied from Maven's repository by the pom beside this file."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from cluster.services.process import ServiceError, run_to_end

HERE = Path(__file__).parent
POM = HERE / "pom.xml"
LOG4J = HERE / "log4j2.properties"
OLDEST_JAVA = 17


@dataclass(frozen=True, kw_only=True)
class KafkaPrograms:
    """What a broker is started with.

    Attributes:
        java: A Java that is new enough.
        jars: A folder with the broker's jars, the log's binding among them, and ``log4j2.properties``.
    """

    java: Path
    jars: Path

    def version(self) -> str:
        """The broker's version, such as ``4.4.0``."""
        return next(self.jars.glob("kafka_*.jar")).stem.rpartition("-")[2]

    def command(self, main_class: str, *arguments: str | Path, heap_mb: int) -> list[str]:
        """The command that runs one of Kafka's classes with a heap of this size, and no larger."""
        return [
            *(str(self.java), f"-Xms{heap_mb}m", f"-Xmx{heap_mb}m", "-XX:+ExitOnOutOfMemoryError"),
            *("-Djava.awt.headless=true", f"-Dlog4j2.configurationFile={self.jars / LOG4J.name}"),
            *("-cp", f"{self.jars}/*", main_class, *map(str, arguments)),
        ]


def find_kafka(folder: Path) -> KafkaPrograms | None:
    """What `install_kafka` has put into a folder; None if that, or a Java to run it, is missing."""
    java, jars = find_java(), _jars(folder)
    return KafkaPrograms(java=java, jars=jars) if java is not None and jars.exists() else None


def find_java() -> Path | None:
    """The first Java from `OLDEST_JAVA` on: of JAVA_HOME, on PATH, of Debian's packages; None if there is none."""
    candidates = [Path(home, "bin", "java") for home in [os.environ.get("JAVA_HOME", "")] if home]
    if found := shutil.which("java"):
        candidates.append(Path(found))
    candidates += sorted(Path("/usr/lib/jvm").glob("*/bin/java"))
    return next((java for java in candidates if java.exists() and _major(java) >= OLDEST_JAVA), None)


def install_kafka(folder: Path) -> None:
    """Copies the jars that the pom names into a folder, unless they are there.

    Raises:
        ServiceError: Maven is missing or fails.
    """
    jars = _jars(folder)
    if jars.exists():
        return
    unfinished = jars.with_suffix(".making")
    shutil.rmtree(unfinished, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mvn", "-B", "-q", "-f", str(POM), "dependency:copy-dependencies", f"-DoutputDirectory={unfinished}"]
    try:
        copied = run_to_end(command)
    except FileNotFoundError:
        raise ServiceError("Maven is missing (the program mvn): apt-get install maven") from None
    if copied.returncode != 0:
        raise ServiceError(f"Maven could not fetch Kafka's jars.\n{copied.stdout[-2000:]}{copied.stderr[-2000:]}")
    shutil.copy(LOG4J, unfinished)
    unfinished.rename(jars)


def _jars(folder: Path) -> Path:
    """Named by the pom's contents: a changed pom is a new folder."""
    return folder / f"jars-{hashlib.sha256(POM.read_bytes() + LOG4J.read_bytes()).hexdigest()[:12]}"


def _major(java: Path) -> int:
    told = run_to_end([java, "-version"]).stderr
    found = re.search(r'version "(\d+)', told)
    return int(found[1]) if found else 0
