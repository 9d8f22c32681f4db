"""TLS and SASL by the URL alone; a wrong password or authority is told in one sentence, without the password."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from kafka_lab import ids, new_pipeline, put, stored

from cluster.services.kafka import KafkaCluster
from raypipe.errors import Unavailable
from raypipe.log import require_log
from raypipe.log.kafka import KafkaLog


def urls(kafka: KafkaCluster) -> dict[str, str]:
    user = f"{kafka.user}:{quote(kafka.password, safe='')}"
    ca = f"ca={kafka.certificates.authority}"
    return {
        "plain": f"kafka://{kafka.bootstrap}",
        "tls": f"kafka+ssl://{kafka.bootstrap_tls}?{ca}",
        "sasl": f"kafka+sasl://{user}@{kafka.bootstrap_sasl}?mechanism=SCRAM-SHA-512",
        "sasl and tls": f"kafka+sasl_ssl://{user}@{kafka.bootstrap_sasl_tls}?{ca}&partitions=2",
    }


@pytest.mark.parametrize("way", ["plain", "tls", "sasl", "sasl and tls"])
def test_a_log_works_over_every_kind_of_connection(kafka: KafkaCluster, way: str) -> None:
    pipeline, url = new_pipeline(), urls(kafka)[way]
    require_log(url, pipeline=pipeline, tables=())
    log = KafkaLog.create(url, pipeline)
    try:
        claim = log.claim(pipeline)
        cuts = [put(log, claim, str(n), n) for n in range(3)]
        log.retain(cuts[0])
        log.write_note("status", "well")
        other = KafkaLog.open(url, pipeline)
        assert ids(stored(other)) == [1, 2]
        assert other.notes("") == {"status": "well"}
        other.close()
    finally:
        log.close()


@pytest.mark.parametrize("way", ["sasl", "sasl and tls"])
def test_a_wrong_password_is_told_and_never_shown(
    kafka: KafkaCluster, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raypipe.log.kafka.topics.ANSWER_S", 3.0)
    url = urls(kafka)[way].replace(quote(kafka.password, safe=""), "not-the-password")
    for attempt in (lambda: require_log(url, pipeline="p", tables=()), lambda: KafkaLog.open(url, "p")):
        with pytest.raises(Unavailable, match="refused the connection") as caught:
            attempt()
        assert "Check user, password" in str(caught.value)
        assert "not-the-password" not in f"{caught.value!r} {caught.value} {caught.value.cause} {caught.value.fields}"


def test_an_authority_that_did_not_sign_is_told(kafka: KafkaCluster, tmp_path: Path) -> None:
    url = f"kafka+ssl://{kafka.bootstrap_tls}"
    with pytest.raises(Unavailable, match="refused the connection"):
        require_log(url, pipeline="p", tables=())


def test_a_port_where_nobody_answers_is_told_within_seconds() -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        require_log("kafka://127.0.0.1:1", pipeline="p", tables=())
