"""Checkpoints in a real S3 server over HTTP on loopback: lost state comes back, and one in trouble stops no run."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from s3fs import S3FileSystem
from shop_of_views import Shop
from test_checkpoints_of_runs import checkpoints, go_ahead, loads_nothing, lost, until
from werkzeug.serving import WSGIRequestHandler, make_server

from raypipe.errors import RaypipeError, Unavailable
from raypipe.state import Remote

BUCKET = "raypipe-checkpoints"


class Silent(WSGIRequestHandler):
    def log(self, *_: object) -> None: ...


class S3:
    """An S3 server in a thread.

    Attributes:
        failing: Whether it answers every request with an error.
        answered: How many requests it has answered so.
    """

    def __init__(self, port: int = 0) -> None:
        self.failing = False
        self.answered = 0
        self._inner = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", port, self._serve, threaded=True, request_handler=Silent)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.port = self._server.port

    def _serve(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if self.failing:
            self.answered += 1
            start_response("500 Internal Server Error", [("Content-Type", "application/xml")])
            return [b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"]
        found: Iterable[bytes] = self._inner(environ, start_response)
        return found

    def stop(self) -> None:
        """Idempotent."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    server = S3()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "not-to-be-told",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_MAX_ATTEMPTS": "1",  # the drivers' own tries take half a minute
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(S3FileSystem, "retries", 1)
    S3FileSystem.clear_instance_cache()
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    yield server
    S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def shop(s3: S3, tmp_path: Path, seed: int) -> Shop:
    return Shop(tmp_path, seed, shards=1, checkpoints=f"s3://{BUCKET}/raypipe")


def test_lost_state_is_restored_from_s3_also_after_it_failed_for_a_while(
    s3: S3, shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.trade(60)
    go_ahead(shop)
    s3.failing = True
    shop.trade(10)
    until(shop, lambda status: any(report.trouble and report.tried for report in checkpoints(status)))
    assert s3.answered
    s3.failing = False
    go_ahead(shop)
    lost(shop)
    shop.trade(10)
    loads_nothing(shop, caplog)
    assert "restored from a checkpoint" in caplog.text


def test_an_s3_that_is_away_is_told_without_its_secrets(s3: S3) -> None:
    remote = Remote(f"s3://{BUCKET}/x", wait=lambda _: None)
    remote.put("runs/1", memoryview(b"one"))
    assert remote.get("runs/1") == b"one"
    assert remote.get("runs/2") is None
    assert remote.list("runs") == {"1": 3}
    assert remote.folders() == {"runs"}
    s3.stop()
    with pytest.raises(Unavailable, match="s3:// address cannot be read") as failed:
        remote.get("runs/1")
    assert "not-to-be-told" not in f"{failed.value}{failed.value.cause}"


def test_a_bucket_that_is_missing_is_not_made(s3: S3) -> None:
    remote = Remote("s3://misspelled/x", wait=lambda _: None)
    with pytest.raises(Unavailable, match="cannot be written: FileNotFoundError"):
        remote.put("runs/1", b"one")
    assert [each["Name"] for each in boto3.client("s3").list_buckets()["Buckets"]] == [BUCKET]


def test_s3_without_its_driver_is_refused_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    known = sys.modules["fsspec.registry"]._registry  # another test may have imported it
    monkeypatch.delitem(known, "s3", raising=False)
    with pytest.raises(RaypipeError, match=r"s3:// addresses(.|\n)*pip install s3fs"):
        Remote(f"s3://{BUCKET}/x")
