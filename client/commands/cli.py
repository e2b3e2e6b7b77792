"""The `polysem` command. The server's own commands (index, serve, demo) join it through `polysem.commands`."""

import codecs
import errno
import io
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points, version
from typing import cast

import click

from polysem.proto.errors import MixedMethodsWarning, PolysemError

# Files of this folder.
GROUPS = (
    "neurons",
    "questions",
    "names",
    "search",
    "maps",
    "pictures",
    "export",
    "assistants",
    "server",
    "jobs",
    "measure",
)
OF_OUTPUT = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)  # what writing to it may meet

# What `polysem --help` lists, in the order of use: what a command needs, and the commands that need it.
NEEDS = {
    "Need nothing": ("demo", "index", "import", "reproduce", "keys"),
    "Need an index (the demo's, unless you name one)": ("serve", "measure", "benchmark", "publish"),
    "Need a file that `polysem measure` wrote": ("rank", "table1"),
    "Need a server (--server or POLYSEM_SERVER)": (
        *("info", "health", "top"),
        *("neurons", "cluster", "examples", "statistics", "similar", "labels", "importance", "explain"),
        *("logit-effects", "ablate", "search", "map", "name", "names"),
        *("explore", "report", "figure", "export", "mcp"),
        *("corpus", "jobs"),
    ),
}

LOOKALIKES = "polysem-lookalikes"
OF_ASCII = str.maketrans(
    {"●": "o", "█": "#", "◂": "<", "…": "~", "«": "<", "»": ">", "×": "x", "·": ".", "≥": ">", "⏎": "\\", "→": ">"}
    | dict.fromkeys("─━╶╴–—", "-")
    | dict.fromkeys("╭╮╰╯├┤┬┴┼", "+")
    | dict.fromkeys("│┊╵╷", "|")
    | dict.fromkeys("◆■", "*")
)


def _lookalikes(error: UnicodeError) -> tuple[str, int]:
    """Replace what a terminal's encoding lacks by ASCII that looks like it, else by a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    looks = error.object[error.start : error.end].translate(OF_ASCII)
    return "".join(character if character.isascii() else "?" for character in looks), error.end


codecs.register_error(LOOKALIKES, _lookalikes)


class Commands(click.Group):
    """Commands of this package and of those that joined it, each loaded when it is asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted([*_joined(), *(str(command.name) for group in GROUPS for command in _commands(group))])

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in (joined := _joined()):
            return cast("click.Command", joined[name].load())
        commands = (command for group in GROUPS for command in _commands(group))
        return next((command for command in commands if command.name == name), None)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, grouped by what they need, each with its first line."""
        names = self.list_commands(context)
        known = {name for group in NEEDS.values() for name in group}
        others = {"Others": tuple(name for name in names if name not in known)}
        width = max(len(name) for name in names)
        for title, group in (NEEDS | others).items():
            rows = [(name.ljust(width), self._first_line(context, name)) for name in group if name in names]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def _first_line(self, context: click.Context, name: str) -> str:
        command = self.get_command(context, name)
        return "" if command is None else (command.help or "").strip().partition("\n")[0]


def _commands(group: str) -> Sequence[click.Command]:
    commands: Sequence[click.Command] = import_module(f"polysem.client.commands.{group}").COMMANDS
    return commands


def _joined() -> dict[str, EntryPoint]:
    return {point.name: point for point in sorted(entry_points(group="polysem.commands"))}


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("polysem"))
def cli() -> None:
    """Split polysemantic neurons into their features.

    \b
    polysem demo                         see it work, with nothing but this package
    polysem index --model gpt2 --corpus texts.jsonl --out gpt2-texts
    polysem serve --index gpt2-texts     on the machine with the GPU
    polysem cluster 7.1234               from anywhere, with --server HOST:PORT
    """
    warnings.simplefilter("ignore", MixedMethodsWarning)  # the commands say it themselves


def main() -> None:
    """Run the command line; errors are one sentence on stderr. Exit status: 1 an error, 2 wrong usage, 130 Ctrl-C."""
    if sys.argv[1:2] == ["serve"]:
        _silence_grpc()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal's encoding lacks is no reason to stop
            stream.reconfigure(errors=LOOKALIKES)
    try:
        status = cli(standalone_mode=False) or 0
        _flush()
        sys.exit(status)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:  # `polysem … | head` has seen enough
        _stop_writing()
        sys.exit(1)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("polysem"):
            raise
        _complain(
            f"this command needs the server, which is not installed here: pip install 'polysem[server]' ({error})"
        )
    except PolysemError as error:
        shown = error.request_id and error.request_id not in error.message
        _complain(f"{error.message} (request {error.request_id})" if shown else error.message)
    except OSError as error:
        if error.filename is None and error.errno not in OF_OUTPUT:
            raise
        _stop_writing()
        _complain(f"{error.filename or 'cannot write the output'}: {error.strerror}")


def _silence_grpc() -> None:
    """Start this command anew where gRPC's core would write to stderr: its lines may hold its callers' keys.

    It reads the environment when it is imported, which has happened.
    """
    if os.environ.get("GRPC_VERBOSITY") != "NONE" or "GRPC_TRACE" in os.environ:
        silent = {name: value for name, value in os.environ.items() if name != "GRPC_TRACE"}
        os.execve(sys.executable, sys.orig_argv, silent | {"GRPC_VERBOSITY": "NONE"})


def _flush() -> None:
    """Write what is still held back, as long as an error can be told."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _stop_writing()
        _complain(f"cannot write the output: {error.strerror}")


def _stop_writing() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str) -> None:
    click.echo(f"polysem: {message}", err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
