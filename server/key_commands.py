"""`polysem keys`: who may ask a server. Heavy modules are imported late."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from polysem.client.commands import next_steps


@click.group()
def keys() -> None:
    """Create, list and revoke the access keys of a server.

    \b
    polysem keys create --owner ada                        prints the key, once
    polysem keys create --owner nightly --class bulk --max-in-flight 4 --daily-quota 1e13
    polysem keys revoke 1a2b3c4d                           at once, also for a running server
    """


STATE = click.option(
    "--state",
    type=click.Path(path_type=Path),
    envvar="POLYSEM_STATE",
    show_envvar=True,
    help="State folder of the server. Default: ~/.local/state/polysem.",
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@keys.command()
@click.option("--owner", required=True, help="Owner of the key: a person's or a script's name.")
@click.option(
    "--class",
    "class_",
    type=click.Choice(["interactive", "bulk"]),
    default="interactive",
    show_default=True,
    help="Class of the key; all requests of a bulk key wait behind interactive ones.",
)
@click.option("--max-in-flight", type=click.IntRange(min=1), help="Most requests at a time. Default: no cap.")
@click.option(
    "--daily-quota",
    type=click.FloatRange(min=0, min_open=True),
    help="Cost served per day (UTC), n_examples² · d_model: 100 examples of GPT2-small cost 7.7e6. Default: no quota.",
)
@click.option("--admin", is_flag=True, help="Let the key see and end the jobs, uploads and indexes of all keys.")
@click.option("--no-names", is_flag=True, help="Refuse names of clusters from this key; it reads those of others.")
@STATE
@AS_JSON
def create(
    owner: str,
    class_: Any,
    max_in_flight: int | None,
    daily_quota: float | None,
    admin: bool,
    no_names: bool,
    state: Path | None,
    as_json: bool,
) -> None:
    """Make a key and print it, once. It is not stored: give it to its owner now."""
    from polysem.server.paths import state_folder
    from polysem.server.serving import keys as store

    key, token = store.create(state_folder(state), owner, class_, max_in_flight, daily_quota, admin, not no_names)
    if as_json:
        click.echo(json.dumps(_key_json(key) | {"token": token}))
        return
    click.echo(
        f"key {key.id} of {key.owner}, {key.class_}{', administrator' if admin else ''}; its holder sets", err=True
    )
    click.echo(f"POLYSEM_TOKEN={token}")


@keys.command("list")
@STATE
@AS_JSON
def list_keys(state: Path | None, as_json: bool) -> None:
    """List all keys: id, owner, class, caps, last use. The keys themselves are not stored."""
    from polysem.server.paths import state_folder
    from polysem.server.serving import keys as store

    found = store.listed(state_folder(state))
    if as_json:
        for key in found:
            click.echo(json.dumps(_key_json(key)))
        return
    from rich.table import Table

    from polysem.client import terminal

    table = Table(box=None, pad_edge=False)
    for heading in (
        "key",
        "owner",
        "class",
        "may see and end",
        "names",
        "in flight",
        "quota a day",
        "created",
        "last used",
        "revoked",
    ):
        table.add_column(heading)
    for key in found:
        quota = "–" if key.daily_quota is None else f"{key.daily_quota:.3g}"
        whose = "all keys' jobs" if key.admin else "its own"
        names = "keeps" if key.may_name else "reads"
        cells = (key.id, key.owner, key.class_, whose, names, str(key.max_in_flight or "–"), quota)
        table.add_row(*cells, key.created[:10], (key.last_used or "never")[:16], (key.revoked or "")[:16])
    if found:
        terminal.console().print(table)
    else:
        click.echo("no keys yet")
        next_steps.say("keys", "create", "--owner", "NAME", *([] if state is None else ["--state", str(state)]))


@keys.command()
@click.argument("key")
@STATE
def revoke(key: str, state: Path | None) -> None:
    """Revoke KEY; its calls in flight end as well.

    KEY is an id of `polysem keys list`."""
    from polysem.server.paths import state_folder
    from polysem.server.serving import keys as store

    revoked = store.revoke(state_folder(state), key)
    click.echo(f"key {revoked.id} of {revoked.owner} is revoked")


def _key_json(key: Any) -> dict[str, Any]:
    fields = asdict(key)
    return {"class": fields.pop("class_")} | {name: fields[name] for name in fields if name != "sha256"}
