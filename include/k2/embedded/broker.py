"""Apache Kafka on this machine: one node that is broker and controller (KRaft), on loopback.

For tests and benchmarks; the topics and their messages are kept below its directory.
"""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from k2.embedded import processes
from k2.embedded.jars import fetch, read_jars
from k2.embedded.java import java_home
from k2.embedded.state import HOST, PROJECT, free_port
from k2.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from confluent_kafka.admin import AdminClient

JARS: Final = read_jars(Path(__file__).with_name("kafka-jars.txt"))
JARS_DIRECTORY: Final = PROJECT / ".k2" / "kafka-jars"

_READY_SECONDS: Final = 60
_STOP_SECONDS: Final = 30
_JAVA_OPTIONS: Final = (
    "-Xms128m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)
# One node, so one replica of everything. Groups begin at once, a dead member is noticed soon.
# https://kafka.apache.org/41/configuration/broker-configs/
_CONFIGURATION: Final = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={logs}
auto.create.topics.enable=false
num.partitions=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.cleaner.dedupe.buffer.size=2097152
"""


class BrokerError(StackError):
    """The broker cannot start, or does not answer."""


@dataclass(frozen=True)
class Broker:
    """A running broker."""

    process: subprocess.Popen[bytes]
    port: int
    directory: Path

    @property
    def address(self) -> str:
        """What clients take as bootstrap servers."""
        return f"{HOST}:{self.port}"


def start(directory: Path, *, port: int = 0, jars: Path = JARS_DIRECTORY) -> Broker:
    """Start a broker on a directory, new or used before, and wait until it answers.

    Args:
        directory: keeps the messages, and the broker's log.
        port: 0 takes a free one.
        jars: where Kafka's jars are kept; they are fetched if they are missing.

    Raises:
        JarError: Maven Central does not give the jars.
        BrokerError: the broker ends at once or does not answer; the message names its log.
    """
    java = java_home()
    fetch(jars, java, JARS)
    directory.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    configuration = directory / "server.properties"
    configuration.write_text(
        _CONFIGURATION.format(
            host=HOST, port=port, controller_port=free_port(), logs=directory / "data"
        )
    )
    command = [str(java / "bin" / "java"), *_JAVA_OPTIONS, "-cp", f"{jars}/*"]
    log = directory / "log"
    if not (directory / "data" / "meta.properties").exists():
        _format(command, configuration, log)
    process = processes.start(
        [*command, "kafka.Kafka", str(configuration)],
        log=log,
        environment=os.environ,
        directory=directory,
    )
    broker = Broker(process, port, directory)
    try:
        _wait_until_ready(broker, log)
    except BaseException:
        kill(broker)
        raise
    return broker


def stop(broker: Broker) -> None:
    """Stop it in good order."""
    broker.process.terminate()
    try:
        broker.process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        kill(broker)


def kill(broker: Broker) -> None:
    """End it where it stands, as `kill -9` does."""
    os.killpg(broker.process.pid, signal.SIGKILL)
    broker.process.wait()


def create_topics(address: str, partitions: Mapping[str, int]) -> None:
    """Create topics, each with so many partitions; topics that are there stay as they are.

    Raises:
        BrokerError: the broker refuses.
    """
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.cimpl import NewTopic

    topics = [NewTopic(name, count, 1) for name, count in partitions.items()]
    admin = _admin(address)
    for name, done in admin.create_topics(topics, operation_timeout=30).items():
        try:
            done.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise BrokerError(
                    f"topic {name} cannot be created: {error.args[0].str()}"
                ) from error


def _format(command: list[str], configuration: Path, log: Path) -> None:
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    tool = ["kafka.tools.StorageTool", "format", "--ignore-formatted"]
    # An id can begin with a hyphen.
    tool += [f"--cluster-id={cluster}", "--config", str(configuration)]
    with log.open("ab") as output:
        done = subprocess.run(
            [*command, *tool],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            check=False,
        )
    if done.returncode != 0:
        raise BrokerError(f"Kafka cannot use {configuration.parent}; see {log}")


def _wait_until_ready(broker: Broker, log: Path) -> None:
    from confluent_kafka import KafkaException

    deadline = time.monotonic() + _READY_SECONDS
    admin = _admin(broker.address)
    while broker.process.poll() is None and time.monotonic() < deadline:
        try:
            if admin.list_topics(timeout=1).brokers:
                return
        except KafkaException:
            continue
    raise BrokerError(f"Kafka on {broker.address} does not answer; see {log}")


def _admin(address: str) -> AdminClient:
    from confluent_kafka.admin import AdminClient

    # Its own log would say at every attempt that the broker is not there yet.
    return AdminClient({"bootstrap.servers": address, "log_level": 0})
