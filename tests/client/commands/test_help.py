"""What `polysem --help` shows: every command once, under what it needs; nothing cut; options that can be read alone."""

import re

import click
import pytest
from click.testing import CliRunner

from polysem.client.commands.cli import NEEDS, cli

NO_SUBJECT = ("Of", "What", "Those", "Where", "As", "How", "Only", "Default:")


def groups(command=cli, path=()):
    """Every group of commands and its path."""
    context = click.Context(command)
    found = [(path, command)]
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        if isinstance(child, click.Group):
            found += groups(child, (*path, name))
    return found


def commands():
    for path, group in groups():
        context = click.Context(group)
        for name in group.list_commands(context):
            yield (*path, name), group.get_command(context, name)


def test_every_command_stands_once_under_what_it_needs():
    listed = [name for group in NEEDS.values() for name in group]
    assert sorted(listed) == cli.list_commands(click.Context(cli))
    shown = CliRunner().invoke(cli, ["--help"], terminal_width=80).output
    assert re.findall(r"^(\S.*):$", shown, re.MULTILINE)[-len(NEEDS) :] == list(NEEDS)
    assert [re.search(rf"^  {name} +\w", shown, re.MULTILINE) is None for name in listed] == [False] * len(listed)


@pytest.mark.parametrize("path", [path for path, _ in groups()], ids=" ".join)
def test_no_description_is_cut_at_80_columns(path):
    shown = CliRunner().invoke(cli, [*path, "--help"], terminal_width=80).output
    assert "..." not in shown.replace("[ARGS]...", "")


@pytest.mark.parametrize(
    ("path", "command"), list(commands()), ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_an_options_help_is_a_phrase_that_can_be_read_alone(path, command):
    first = (command.help or "").split("\n")[0]
    assert first.endswith((".", "?")), first
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, (path, option.name)
            assert option.help.split()[0] not in NO_SUBJECT, (path, option.name, option.help)
