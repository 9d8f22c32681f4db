"""A shop to run commands on, and the commands themselves, in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
from storefront import Command, Ended, Shop

from raypipe.cli.app import main


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.chdir(tmp_path)
    return Shop(tmp_path)


@pytest.fixture
def raypipe(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*words: object) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        code = ended.value.code
        return Ended(code=code if isinstance(code, int) else 0 if code is None else -1, out=out, err=err)

    return run
