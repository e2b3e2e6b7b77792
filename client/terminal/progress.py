"""Progress of long work on stderr: a bar a stage, with rate and time left."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

INDEXING = {  # units of the stages of an index build
    "wait": "until another process has built it",
    "tokenise": "documents",
    "check corpus": "documents",
    "scan": "tokens",
    "choose": "layers",
    "collect": "tokens",
    "write": "layers",
    "test": "neurons",
}


class Bars(NamedTuple):
    """advance(stage, n, total): n units more of a stage; total is None where it is unknown.
    note(text): what is to stand beside the bar of the stage at work."""

    advance: Callable[[str, int, int | None], None]
    note: Callable[[str], None]


@contextmanager
def bars(units: Mapping[str, str]) -> Iterator[Bars]:
    """Bars that come as their stages begin. units: of each stage."""
    shown = Progress(
        TextColumn("{task.description:>12}"),
        BarColumn(24),
        TextColumn("{task.completed:>12,} {task.fields[unit]}"),
        TextColumn("{task.fields[rate]}"),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )
    tasks: dict[str, TaskID] = {}
    last = ""

    def advance(stage: str, n: int, total: int | None) -> None:
        if stage not in tasks:
            tasks[stage] = shown.add_task(stage, total=total, unit=units[stage], rate="", note=last)
        shown.advance(tasks[stage], n)
        task = shown.tasks[tasks[stage]]
        speed = task.finished_speed or task.speed
        shown.update(tasks[stage], rate=f"{speed:,.0f}/s" if speed else "")

    def note(text: str) -> None:
        nonlocal last
        last = text
        if tasks:
            shown.update(list(tasks.values())[-1], note=text)
        else:
            shown.console.print(text)

    with shown:
        yield Bars(advance, note)
