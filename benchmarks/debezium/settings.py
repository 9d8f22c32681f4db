"""Debezium's settings by name: as delivered, best throughput, least latency."""

from __future__ import annotations

from collections.abc import Mapping

_JSON = "org.apache.kafka.connect.json.JsonConverter"

# Rows without a schema in each message, large queues and requests, lz4: what its throughput is limited by otherwise.
_TUNED = {
    "key.converter": _JSON,
    "key.converter.schemas.enable": "false",
    "value.converter": _JSON,
    "value.converter.schemas.enable": "false",
    "max.batch.size": "20480",
    "max.queue.size": "81920",
    # As delivered it looks for new rows every 500 ms.
    "poll.interval.ms": "10",
    "producer.override.compression.type": "lz4",
    "producer.override.batch.size": str(1 << 20),
    "producer.override.buffer.memory": str(128 << 20),
}

SETTINGS: Mapping[str, Mapping[str, str]] = {
    "default": {},
    "balanced": {**_TUNED, "producer.override.linger.ms": "5"},
    "lowlat": {**_TUNED, "producer.override.linger.ms": "0"},
}

# Of the whole server: enough for the queues above, so that it never spends its time on collecting garbage.
HEAP_MB = 2048

WORKER = {
    # How often positions are written to the file, which a user leaves as it is; here it is stopped in order anyway.
    "offset.flush.interval.ms": "60000",
}
