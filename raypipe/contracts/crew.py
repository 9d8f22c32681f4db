"""What a crew is: those who read, carry and commit for a conductor, in this process or as Ray actors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from raypipe.contracts.state import StateReport
from raypipe.errors import RaypipeError
from raypipe.model import Claim, Committed, Cut, SinkTable


@dataclass(frozen=True, kw_only=True)
class ReaderOrder:
    """What a reader shall do from now on.

    Attributes:
        hold: Append nothing until told otherwise; between transactions of the source only.
        upto: Read no further than this position.
    """

    hold: bool = False
    upto: str | None = None


@dataclass(frozen=True, kw_only=True)
class Reload:
    """A table that must be loaded again; stands until the log says that it was.

    Attributes:
        instance: It belongs to.
        table: As in ``TableSchema.table`` (``instance.table``).
        topic: In the log.
        begun: Offset at which its last load began when this was asked for; None if the log knew of none.
    """

    instance: str
    table: str
    topic: str
    begun: int | None

    def fulfilled(self, load_begins: int | None) -> bool:
        """Whether a load has begun since, given what ``Log.load_begins`` says now."""
        return load_begins is not None and (self.begun is None or load_begins > self.begun)


@dataclass(frozen=True, kw_only=True)
class ReaderReport:
    """What a reader last said of itself.

    Attributes:
        state: As in ``InstanceStatus``.
        position: Last committed in the log.
        order: It is acting on.
        settled: With ``order``: it holds still, or has reached ``upto``; without: its last poll found nothing.
        loading: Share loaded of each loading table.
        pending: Changes waiting in the source.
        parked: Rows put into quarantine, net.
        rows: Row images appended.
        failing_s: For how long it has failed without a break.
        error: Last error, empty when it works.
        fatal: An error no retry can mend; the run must end.
        seconds: By stage.
        kept: What the source's database keeps for us (``KeepsForUs``), in bytes.
        reload: Of those asked for, what the log does not hold yet: a reader that takes over must be told.
    """

    state: str = "starting"
    position: str | None = None
    order: ReaderOrder = ReaderOrder()
    settled: bool = False
    loading: Mapping[str, float] = field(default_factory=dict)
    pending: int | None = None
    parked: int = 0
    rows: int = 0
    failing_s: float = 0.0
    error: str = ""
    fatal: RaypipeError | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    kept: Mapping[str, int] = field(default_factory=dict)
    reload: tuple[Reload, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EpochOutcome:
    """How an epoch ended, for each of its sinks.

    Attributes:
        committed: What each sink that made it holds now.
        failed: What hindered each of the others; they must be opened again.
        rows: Row images read from the log.
        bytes: Read from the log.
        executor: ``inline`` or ``ray_data``.
        seconds: By stage.
    """

    committed: Mapping[str, Committed]
    failed: Mapping[str, RaypipeError]
    rows: int = 0
    bytes: int = 0
    executor: str = "inline"
    seconds: Mapping[str, float] = field(default_factory=dict)


# Told how far state that is carried on is: number of the cut that it has reached, and of the one that it has to reach.
Carrying = Callable[[int, int], None]


class Crew(Protocol):
    """Does what a conductor decides. All methods are called by the conductor's one thread."""

    def sinks(self) -> Mapping[str, tuple[SinkTable, ...]]:
        """Units of commit by name, and their tables."""
        ...

    def open_sink(self, name: str, claim: Claim) -> Committed:
        """Opens a sink, or opens it again after a failure.

        Raises:
            RaypipeError: as ``Sink.open``.
        """
        ...

    def fits(self, carrying: Carrying) -> bool:
        """Whether the state of stateful steps fits what the sinks hold, asked once all are open.

        State that lies behind them, or a checkpoint of it, is carried on first, as far as the log goes back. If it does
        not fit even so it was emptied, and every sink must be opened again: its tables then await a load.

        Args:
            carrying: Told before each cut that the state is carried to; what it raises ends that, and is raised.
        """
        ...

    def state_cut(self) -> int | None:
        """Number of the lowest cut held by a sink that stateful steps feed; None if one holds none, or none is fed."""
        ...

    def checkpoint(self, version: int, keep: Collection[int]) -> None:
        """Begins a checkpoint of the state, beside the work; ``state_reports`` say what became of it.

        Args:
            version: Number of a cut that the state is kept for.
            keep: Earlier checkpoints, whole, that stay.
        """
        ...

    def state_shards(self) -> int:
        """In how many shards the state of stateful steps is; 0 without such steps."""
        ...

    def prepare(self, shards: int) -> bool:
        """Has the state cut for another number of shards beside the work; called again and again.

        Args:
            shards: That number; the present one to give up, and to remove what was cut.

        Returns:
            Whether ``reshard`` would be quick now. ``state_reports`` say how far it is, and what hinders it.
        """
        ...

    def reshard(self, shards: int, claim: Claim) -> None:
        """Has another number of shards take over, with all that they were and at every cut; between two epochs.

        Args:
            shards: That number.
            claim: Above all that were given out before.

        Raises:
            Fenced: a later run has the state.
            StateLost: what there is cannot be read.
            RaypipeError: the number is as before; every sink must be opened again before the next epoch.
        """
        ...

    def keep(self, cuts: Collection[int]) -> None:
        """The state of other cuts than these (and later ones) will not be asked for any more."""
        ...

    def state_reports(self) -> Sequence[StateReport]:
        """What the owners of the state last said of it; none without stateful steps, or before it is open."""
        ...

    def start_readers(self, claim: Claim, reload: Collection[Reload]) -> None:
        """Starts a reader for each instance.

        Args:
            claim: The right to write; a reader that starts again renews it.
            reload: Tables to load again.
        """
        ...

    def readers(self) -> Mapping[str, ReaderReport]:
        """What the readers say of themselves, by instance."""
        ...

    def order(self, instance: str, order: ReaderOrder) -> None:
        """Tells a reader what to do from now on; its report says when it does."""
        ...

    def carry(
        self,
        sinks: Collection[str],
        after: Cut | None,
        upto: Cut,
        keep_going: Callable[[], bool],
    ) -> EpochOutcome:
        """Carries sinks from one cut to another and commits.

        Args:
            sinks: That hold ``after``.
            after: See ``Epoch``.
            upto: See ``Epoch``.
            keep_going: Asked often; once it answers False the epoch is thrown away.

        Raises:
            RaypipeError: something all sinks share failed (log, steps); none of them committed.
        """
        ...

    def rest(self) -> None:
        """Every sink lets go of locks that keep other readers out."""
        ...

    def close(self) -> None:
        """Ends readers and sinks within seconds; idempotent."""
        ...
