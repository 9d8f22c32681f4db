"""The values that every part of raypipe passes around: changes, tables, positions, cuts, epochs."""

from raypipe.model.change import (
    BRANCH,
    COMMIT,
    IMAGE,
    OP,
    ORDINAL,
    RESERVED_PREFIX,
    SYSTEM_FIELDS,
    TIME,
    ChangeBatch,
    Image,
    Op,
)
from raypipe.model.cut import Claim, Cut
from raypipe.model.epoch import Committed, Epoch, Mode, SinkTable, TableState
from raypipe.model.table import Column, TableName, TableSchema

__all__ = [
    "BRANCH",
    "COMMIT",
    "IMAGE",
    "OP",
    "ORDINAL",
    "RESERVED_PREFIX",
    "SYSTEM_FIELDS",
    "TIME",
    "ChangeBatch",
    "Claim",
    "Column",
    "Committed",
    "Cut",
    "Epoch",
    "Image",
    "Mode",
    "Op",
    "SinkTable",
    "TableName",
    "TableSchema",
    "TableState",
]
