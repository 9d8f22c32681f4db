"""A Java that is new enough, and Kafka's jars, copied from Maven's repository by the pom beside this file."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.services.maven import Jars
from cluster.services.process import run_to_end

HERE = Path(__file__).parent
POM = HERE / "pom.xml"
LOG4J = HERE / "log4j2.properties"
JARS = Jars(what="Kafka", pom=POM, beside=(LOG4J,))
OLDEST_JAVA = 17

# Java's options for a process that lives for seconds: half the CPU time until a broker serves, and slower later.
QUICK_TO_START = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")


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

    def command(
        self, main_class: str, *arguments: str | Path, heap_mb: int, options: Sequence[str] = QUICK_TO_START
    ) -> list[str]:
        """The command that runs one of Kafka's classes with a heap of this size, and no larger."""
        return [
            *(str(self.java), f"-Xms{heap_mb}m", f"-Xmx{heap_mb}m", "-XX:+ExitOnOutOfMemoryError", *options),
            *("-Djava.awt.headless=true", f"-Dlog4j2.configurationFile={self.jars / LOG4J.name}"),
            *("-cp", f"{self.jars}/*", main_class, *map(str, arguments)),
        ]


def find_kafka(folder: Path) -> KafkaPrograms | None:
    """What `install_kafka` has put into a folder; None if that, or a Java to run it, is missing."""
    java, jars = find_java(), JARS.find(folder)
    return KafkaPrograms(java=java, jars=jars) if java is not None and jars is not None else None


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
    JARS.fetch(folder)


def _major(java: Path) -> int:
    told = run_to_end([java, "-version"]).stderr
    found = re.search(r'version "(\d+)', told)
    return int(found[1]) if found else 0
