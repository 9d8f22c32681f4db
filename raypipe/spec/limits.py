"""The bounds a pipeline keeps: bytes and seconds, each with its reason."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)")


def _parsed_size(value: object) -> object:
    if not isinstance(value, str):
        return value
    found = _SIZE.fullmatch(value.strip())
    if found is None or found[2].upper() not in _UNITS:
        raise PydanticCustomError("size", "should be a number of bytes or a size such as 64MiB or 2GB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


# A number of bytes, or text with a unit.
ByteSize = Annotated[
    int,
    BeforeValidator(_parsed_size),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?\s*[A-Za-z]*$"}]}),
]

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


class Limits(BaseModel):
    """Bounds of memory, disk and time; the defaults suit a laptop."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    poll_bytes: Annotated[ByteSize, Field(ge=64 * KIB)] = Field(
        default=16 * MIB,
        description="How much a reader takes from its source at a time, in memory.",
    )
    epoch_bytes: Annotated[ByteSize, Field(ge=MIB)] = Field(
        default=256 * MIB,
        description="How much of the log one epoch carries at most. Epochs are as small as latency allows when there "
        "is little to do and grow up to this with a backlog; one transaction is never split, however large.",
    )
    ray_data_bytes: Annotated[ByteSize, Field(ge=0)] = Field(
        default=128 * MIB,
        description="An epoch from this size on runs as a Ray Data execution, which costs 0.1 to 2 seconds to begin; "
        "a smaller one in the consumer's own process. Without Ray all epochs do.",
    )
    log_bytes: Annotated[ByteSize, Field(ge=16 * MIB)] = Field(
        default=4 * GIB,
        description="How much disk the log may use. At this bound the readers wait until the sinks have caught up; "
        "the sources keep what waits.",
    )
    step_memory_bytes: Annotated[ByteSize, Field(ge=16 * MIB)] = Field(
        default=GIB,
        description="How much memory one step's SQL may use.",
    )
    step_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=60.0,
        description="How long one step's SQL may take over one batch, in seconds.",
    )
    state_shards: Annotated[int, Field(ge=1, le=256)] = Field(
        default=1,
        description="How many actors (threads, in a local run) share what stateful steps remember, each with an equal "
        "part of the keys and of `state_bytes`. Another number takes effect with `raypipe reshard`, or when the run is "
        "started again.",
    )
    checkpoint_seconds: Annotated[float, Field(ge=0.1, allow_inf_nan=False)] = Field(
        default=60.0,
        description="How far apart checkpoints of the state are at least. What follows the newest two stays in the log "
        "for them, up to half of `log_bytes`.",
    )
    step_rows: Annotated[int, Field(ge=1000)] = Field(
        default=5_000_000,
        description="How many rows a stateful step may compute again for one change, where its SQL has no key by which "
        "fewer would do (`raypipe plan` says so).",
    )
    clock_seconds: Annotated[float, Field(ge=0.1, allow_inf_nan=False)] = Field(
        default=60.0,
        description="How far a step that calls `now()` may fall behind the time while its sources are silent. So "
        "often, at most, a cut is made in which nothing has changed but the time, and every sink commits it.",
    )
    state_bytes: Annotated[ByteSize, Field(ge=MIB)] = Field(
        default=16 * GIB,
        description="How much disk the state of stateful steps may use.",
    )
