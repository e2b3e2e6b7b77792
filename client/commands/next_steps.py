"""The command to type next, as it works in the same terminal."""

import shlex
import shutil
import sys
from pathlib import Path

import click
from click.core import ParameterSource


def command() -> str:
    """Return how this process was started, to be typed again in the same terminal: `polysem` where that is it."""
    script = Path(sys.argv[0])
    if script.suffix == ".py":  # python -m polysem
        return shlex.join([sys.executable, "-m", "polysem"])
    on_path = shutil.which(script.name)
    is_it = on_path is not None and Path(on_path).resolve() == script.resolve()
    return script.name if is_it else shlex.quote(str(script))


def say(*arguments: str) -> None:
    """Print the command with these arguments."""
    click.echo(f"next: {command()} {shlex.join(arguments)}")


def say_of_server(*arguments: str) -> None:
    """Print the command with these arguments and the options that named the server, but for the caller's key."""
    say(*arguments, *_server())


def _server() -> list[str]:
    """The options of `asks_server` that were typed and say which server."""
    context = click.get_current_context()
    typed = {name for name in ("server", "tls", "ca") if _is_typed(context, name)}
    options = ["--server", context.params["server"]] if "server" in typed else []
    if "ca" in typed:
        return [*options, "--ca", context.meta["polysem.ca"]]
    return [*options, "--tls"] if "tls" in typed else options


def _is_typed(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE
