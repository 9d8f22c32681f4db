"""Small Protocols between the engine and its adapters."""

from raypipe.contracts.crew import Crew, EpochOutcome, ReaderOrder, ReaderReport
from raypipe.contracts.log import Log, LogBatch, LogSlice, LogTransaction
from raypipe.contracts.sink import Sink, SinkContents
from raypipe.contracts.source import CanPauseLoads, KeepsForUs, Piece, Source, SourceView
from raypipe.contracts.step import Step

__all__ = [
    "CanPauseLoads",
    "Crew",
    "EpochOutcome",
    "KeepsForUs",
    "Log",
    "LogBatch",
    "LogSlice",
    "LogTransaction",
    "Piece",
    "ReaderOrder",
    "ReaderReport",
    "Sink",
    "SinkContents",
    "Source",
    "SourceView",
    "Step",
]
