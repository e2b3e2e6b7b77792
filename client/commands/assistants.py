"""The command for assistants: mcp."""

import click

from polysem.client.calls import DEFAULT_TARGET
from polysem.client.commands.options import connect, connects


@click.command()
@connects
@click.option(
    "--server",
    default=DEFAULT_TARGET,
    envvar="POLYSEM_SERVER",
    show_default=True,
    show_envvar=True,
    metavar="HOST:PORT",
    help="The server to ask, or unix:/path of its socket.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    help="Seconds that one question may take.",
)
def mcp(server: str, timeout_s: float) -> None:
    """Let an assistant look neurons up, over the Model Context Protocol.

    An assistant's program starts this command and speaks with it over standard input and output. Its tools only read:
    indexes, neurons, search, cluster, labels, examples, explain. The key is taken from POLYSEM_TOKEN, as by every
    command.

    \b
    {"mcpServers": {"polysem": {"command": "polysem", "args": ["mcp", "--server", "HOST:PORT"]}}}
    """
    try:
        from polysem.client.assistants.server import serve
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("polysem"):
            raise
        raise click.ClickException(
            f"this needs a package that is not installed here: pip install 'polysem[mcp]' ({error})"
        ) from None
    with connect(server, timeout_s) as client:
        serve(client)


COMMANDS = (mcp,)
