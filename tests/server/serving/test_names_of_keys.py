"""Who names clusters where there are keys, whose names they are, and that they outlive the server."""

from contextlib import ExitStack

import pytest

from polysem.client import Client
from polysem.proto.errors import FailedPrecondition, PermissionDenied
from polysem.server.naming import kept
from polysem.server.serving import keys

NEURON = "0.5"


@pytest.fixture
def tokens(tmp_path):
    made = {"ada": {}, "reader": {"may_name": False}, "root": {"admin": True}}
    return {owner: keys.create(tmp_path, owner, **how)[1] for owner, how in made.items()}


def test_keys_decide_who_names_and_names_outlive_the_server(served, tokens, tmp_path):
    with served(state=tmp_path, require_keys=True) as target, ExitStack() as leaving:
        asked = {owner: leaving.enter_context(Client(target, token=token)) for owner, token in tokens.items()}
        asked["ada"].name(NEURON, "A", "by ada")
        with pytest.raises(PermissionDenied, match="this key may not name clusters"):
            asked["reader"].name(NEURON, "A", "by a reader")
        (name,) = asked["reader"].names(NEURON)
        assert (name.text, name.author) == ("by ada", "ada")
        asked["ada"].keep_names(name._replace(text="as if by ben", author="ben"))
        assert asked["ada"].names(NEURON)[0].author == "ada"
        asked["root"].keep_names(name._replace(text="by ben indeed", author="ben"))
        again = asked["root"].names(NEURON)[0]
        assert (again.author, again.time) == ("ben", name.time)
    (tmp_path / kept.FILE).write_bytes(b"damaged" * 1000)
    with served(state=tmp_path, require_keys=True) as target, Client(target, token=tokens["ada"]) as ada:
        assert ada.labels(NEURON)[0].method == "rule"  # the server starts, and answers everything else
        with pytest.raises(FailedPrecondition, match=r"this server keeps no names.*restore names\.sqlite"):
            ada.name(NEURON, "A", "x")
