"""A table that must be loaded again stays so until the log holds a load that began after that was found."""

from __future__ import annotations

import pytest

from raypipe.contracts import Reload


@pytest.mark.parametrize(
    ("begun", "now", "fulfilled"),
    [
        (None, None, False),  # nothing has been loaded yet
        (None, 0, True),
        (7, 7, False),  # the load that is too old for some sink
        (7, None, False),  # it was forgotten meanwhile
        (7, 12, True),
    ],
)
def test_only_a_load_that_began_since_fulfils_it(begun: int | None, now: int | None, fulfilled: bool) -> None:
    reload = Reload(instance="shop", table="shop.orders", topic="p.shop.main.orders", begun=begun)
    assert reload.fulfilled(now) is fulfilled
