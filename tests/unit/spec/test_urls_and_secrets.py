"""URLs: what paths are relative to, how secrets are filled in, and that neither is ever printed."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from raypipe.errors import Kind, RaypipeError
from raypipe.spec import PipelineFileError, Source, Url, parse, redact, resolve_folder, resolve_place, resolve_url

FOLDER = Path("/data/shop")


@pytest.mark.parametrize(
    ("written", "resolved"),
    [
        ("sqlite:///shop.db", "sqlite:////data/shop/shop.db"),
        ("sqlite:///../shop.db", "sqlite:////data/shop.db"),
        ("sqlite:////abs/shop.db", "sqlite:////abs/shop.db"),
        ("sqlite+pysqlite:///shop.db?timeout=5", "sqlite+pysqlite:////data/shop/shop.db?timeout=5"),
        ("delta:///var/lake", "delta:////data/shop/var/lake"),
        ("duckdb:////abs/x.duckdb", "duckdb:////abs/x.duckdb"),
        ("postgresql://db/shop", "postgresql://db/shop"),
    ],
)
def test_three_slashes_are_relative_to_the_file_and_four_absolute(written: str, resolved: str) -> None:
    assert resolve_url(Url(written), FOLDER) == resolved


def test_a_path_is_plain_text_and_not_percent_encoded() -> None:
    assert resolve_url(Url("sqlite:///my shop.db"), Path("/50% off")) == "sqlite:////50% off/my shop.db"


def test_secrets_come_from_the_environment_and_from_files(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("p@ss/w:rd\n")
    url = Url("postgresql://${env:DB_USER}:${file:password}@db/${env:DB_NAME}")
    environment = {"DB_USER": "ann", "DB_NAME": "shop/eu"}
    assert resolve_url(url, tmp_path, environment) == "postgresql://ann:p%40ss%2Fw%3Ard@db/shop/eu"


def test_a_whole_url_may_be_a_secret() -> None:
    assert resolve_url(Url("${env:DB}"), FOLDER, {"DB": "sqlite:///x.db"}) == "sqlite:////data/shop/x.db"


@pytest.mark.parametrize(
    ("environment", "resolved"),
    [
        ({}, "sqlite:////data/shop/var/shop.db"),
        ({"PLACE": ""}, "sqlite:////data/shop/var/shop.db"),
        ({"PLACE": "here"}, "sqlite:////data/shop/here/shop.db"),
        ({"PLACE": "/elsewhere"}, "sqlite:////elsewhere/shop.db"),
    ],
)
def test_a_variable_may_have_a_default_as_in_a_shell(environment: dict[str, str], resolved: str) -> None:
    assert resolve_url(Url("sqlite:///${env:PLACE:-var}/shop.db"), FOLDER, environment) == resolved


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("sqlite:///${env:RAYPIPE_TEST_UNSET}", "The environment variable RAYPIPE_TEST_UNSET is not set."),
        ("sqlite:///${file:nowhere}", "The secret file /data/shop/nowhere cannot be used: No such file"),
        ("${env:NOT_A_URL}", "The secret does not hold a usable URL: a URL begins with a scheme"),
    ],
)
def test_a_secret_that_cannot_be_had_is_told_without_its_value(written: str, says: str) -> None:
    with pytest.raises(RaypipeError) as caught:
        resolve_url(Url(written), FOLDER, {"NOT_A_URL": "hunter2"})
    assert says in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert caught.value.kind is Kind.PIPELINE_FILE


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("postgresql://ann:hunter2@db/shop", "postgresql://ann:***@db/shop"),
        ("cannot reach postgresql://ann:hun@ter/2@db/shop now", "cannot reach postgresql://ann:***@db/shop now"),
        ("mysql://:hunter2@db", "mysql://:***@db"),
        ("x://db?user=ann&password=hunter2&a=b", "x://db?user=ann&password=***&a=b"),
        ("x://db?aws_secret_access_key=hunter2", "x://db?aws_secret_access_key=***"),
        ("sqlite:///shop.db", "sqlite:///shop.db"),
        ("no url: a@b", "no url: a@b"),
    ],
)
def test_passwords_are_redacted_in_any_text(text: str, redacted: str) -> None:
    assert redact(text) == redacted


def test_a_url_never_shows_its_password() -> None:
    url = Url("postgresql://ann:hunter2@db/shop")
    source = Source(url=url, tables=("orders",))
    for shown in (str(url), repr(url), f"{url}", repr(source), str(source), source.model_dump_json()):
        assert "hunter2" not in shown
        assert "ann:***@db" in shown


def test_a_wrong_url_is_refused_without_showing_it() -> None:
    with pytest.raises(ValidationError) as caught:
        Source.model_validate({"url": "ann:hunter2@db", "tables": ["orders"]})
    assert "hunter2" not in str(caught.value)
    text = "pipeline: p\nlog: ann:hunter2@db\nsources: {hunter: postgresql://ann:hunter2@db}\nsinks: hunter2\n"
    with pytest.raises(PipelineFileError) as told:
        parse(text, file="p.yaml", folder=FOLDER)
    assert "hunter2" not in str(told.value)


def test_a_place_is_a_url_of_any_scheme_or_a_folder(tmp_path: Path) -> None:
    environment = {"BUCKET": "s3://here/it"}
    assert resolve_place("${env:BUCKET}/raypipe", FOLDER, environment) == "s3://here/it/raypipe"
    assert resolve_place("../saved", FOLDER) == "/data/saved"
    assert str(resolve_folder("${env:PLACE:-var}/state", FOLDER, {})) == "/data/shop/var/state"
    with pytest.raises(RaypipeError, match="not a URL"):
        resolve_folder("${env:BUCKET}", FOLDER, environment)
