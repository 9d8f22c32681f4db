"""Small Protocols between the engine and its adapters."""

from raypipe.contracts.crew import Carrying, Crew, EpochOutcome, ReaderOrder, ReaderReport, Reload
from raypipe.contracts.log import CanPrepare, Log, LogBatch, LogSlice, LogTransaction
from raypipe.contracts.repair import CanBeRepaired, ComparesTables
from raypipe.contracts.sink import HoldsAShare, Sink, SinkContents
from raypipe.contracts.source import (
    CanPauseLoads,
    CanReadAgain,
    KeepsForUs,
    MayTear,
    Piece,
    ReadAgain,
    Source,
    SourceView,
)
from raypipe.contracts.state import (
    WEIGHT,
    WEIGHT_FIELD,
    CheckpointReport,
    Readable,
    ReshardReport,
    StateReport,
    StateStore,
    Trace,
    TraceSchema,
    TraceTotals,
    Work,
)
from raypipe.contracts.step import Step

__all__ = [
    "WEIGHT",
    "WEIGHT_FIELD",
    "CanBeRepaired",
    "CanPauseLoads",
    "CanPrepare",
    "CanReadAgain",
    "Carrying",
    "CheckpointReport",
    "ComparesTables",
    "Crew",
    "EpochOutcome",
    "HoldsAShare",
    "KeepsForUs",
    "Log",
    "LogBatch",
    "LogSlice",
    "LogTransaction",
    "MayTear",
    "Piece",
    "ReadAgain",
    "Readable",
    "ReaderOrder",
    "ReaderReport",
    "Reload",
    "ReshardReport",
    "Sink",
    "SinkContents",
    "Source",
    "SourceView",
    "StateReport",
    "StateStore",
    "Step",
    "Trace",
    "TraceSchema",
    "TraceTotals",
    "Work",
]
