"""``raypipe repair``: compares the sinks with the source by checksums, and reads again only what differs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from raypipe.cli.options import PIPELINE_FILE, File, Json
from raypipe.cli.terminal import aligned, counted, say

if TYPE_CHECKING:
    from raypipe.repair import Report


def repair(
    file: File = PIPELINE_FILE,
    table: Annotated[
        list[str] | None,
        typer.Option(
            "--table", metavar="SOURCE.TABLE", help="Only this table (may be repeated); without, all that can be."
        ),
    ] = None,
    new_slot: Annotated[
        bool,
        typer.Option(
            "--new-slot",
            help="Go on behind a gap: make a new replication slot first, then compare everything with what was read "
            "before it. Tables that cannot be compared are loaded as a whole.",
        ),
    ] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=1, help="To wait for the pipeline without progress.")
    ] = 300.0,
    json: Json = False,
) -> None:
    """Make every sink right again without loading everything: after a gap, a restored backup, or a doubt.

    Works on a running pipeline, which goes on, and on a stopped one, which runs for as long as it takes. Run it again
    if it was interrupted.
    """
    from raypipe.cli.verify import silence, words
    from raypipe.local.assemble import assemble
    from raypipe.repair import repair as repair_pipeline
    from raypipe.spec import load

    plan = assemble(load(file))
    with silence() if json else words() as observer:
        report = repair_pipeline(
            plan, tables=tuple(table or ()), new_slot=new_slot, observer=observer, timeout_s=timeout
        )
    if json:
        say(report.to_json())
        return
    for line in report_lines(report):
        say(line)


def report_lines(report: Report) -> list[str]:
    """A report for people."""
    lines = aligned(
        [
            ("table", "rows", "chunks", "differ", "inserted", "changed", "deleted", "bytes read", "of a whole load"),
            *(
                (
                    each.table,
                    f"{each.rows:,}",
                    f"{each.chunks:,}",
                    f"{each.differing:,}",
                    f"{each.inserted:,}",
                    f"{each.changed:,}",
                    f"{each.deleted:,}",
                    f"{each.compared_bytes + each.reread_bytes:,}",
                    f"{each.table_bytes:,}",
                )
                for each in report.tables
            ),
        ],
        indent="",
    )
    loaded = "loaded as a whole" if report.bridged else "left as it is"
    lines += [f"{table}: {loaded}. {why}" for table, why in report.left.items()]
    lines += [f"{instance}: goes on behind the gap through a new slot." for instance in report.bridged]
    rows = sum(each.reread + each.deleted for each in report.tables)
    verdict = f"{counted(rows, 'row')} read again or deleted" if rows else "nothing differed"
    return [
        *lines,
        f"{report.pipeline}: {verdict}; every sink holds cut {report.repaired_at}, in {report.seconds:.1f} s.",
    ]
