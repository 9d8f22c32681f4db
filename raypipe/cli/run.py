"""``raypipe run``: carries changes from the sources into the sinks, until told to stop."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from raypipe.cli.exits import Exit
from raypipe.cli.options import PIPELINE_FILE, File, Json
from raypipe.cli.terminal import complain, say
from raypipe.engine.status import Status

_UNIT_S = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parsed_until(text: str) -> str | float:
    """``idle``, ``forever``, or a duration in seconds.

    Raises:
        typer.BadParameter: it is none of them.
    """
    if text in ("idle", "forever"):
        return text
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)", text)
    if found is None or found[2] not in _UNIT_S:
        raise typer.BadParameter(f"{text!r} is neither idle, nor forever, nor a duration such as 30s, 5m or 2h.")
    return float(found[1]) * _UNIT_S[found[2]]


def run(
    file: File = PIPELINE_FILE,
    local: Annotated[bool, typer.Option("--local", help="Run in this process, without Ray.")] = False,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="ADDRESS",
            help="Join this Ray cluster (auto, or host:port). Without: the cluster of the submitted job, else a local "
            "Ray that ends with the run.",
        ),
    ] = None,
    until: Annotated[
        str,
        typer.Option(
            "--until",
            metavar="idle|forever|DURATION",
            help="End when every sink has all the sources have, never, or after a time (30s, 5m, 2h).",
        ),
    ] = "forever",
    json: Json = False,
) -> None:
    """Run the pipeline. Ctrl-C and SIGTERM end it cleanly, a second one at once; either way nothing is lost."""
    condition = parsed_until(until)
    if local and address is not None:
        raise typer.BadParameter("--local runs without Ray, so --address has no meaning beside it.")

    from raypipe.cli.progress import for_people, json_lines
    from raypipe.cli.signals import StopSignals
    from raypipe.local.assemble import assemble
    from raypipe.spec import load

    if not local:
        _require_ray()
    pipeline = load(file)
    plan = assemble(pipeline)
    for warning in pipeline.warnings:
        complain(str(warning))

    with StopSignals() as signals, json_lines() if json else for_people() as show:

        def observe(status: Status) -> None:
            signals.keep()
            show(status)

        if local:
            from raypipe.local.run import run_local

            last = run_local(plan, until=condition, observer=observe, stop=signals.stop)
        else:
            from actors.run import run_on_ray

            last = run_on_ray(plan, address=address, until=condition, observer=observe, stop=signals.stop)
    if not json:
        say(_summary(last))
    if signals.received is not None and condition != "forever":
        raise typer.Exit(Exit(128 + signals.received))


def _require_ray() -> None:
    from importlib.util import find_spec

    from raypipe.errors import MissingExtra

    if find_spec("ray") is None:
        raise MissingExtra.of("ray", "Running on Ray (without --local)")


def _summary(status: Status) -> str:
    from raypipe.cli.terminal import counted

    cuts = sorted({sink.cut for sink in status.sinks if sink.cut is not None})
    where = f"; the sinks hold cut {', '.join(map(str, cuts))}" if cuts else ""
    return (
        f"{status.pipeline}: run {status.run} {status.state} after {counted(status.rows, 'row')} "
        f"in {counted(status.epochs, 'epoch')}{where}."
    )
