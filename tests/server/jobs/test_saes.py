"""SAEs that jobs may name."""

import pytest

from polysem.proto.errors import InvalidArgument, NotFound
from polysem.server.jobs.saes import Saes


def test_a_name_stands_for_the_place_that_the_operator_gave(tmp_path):
    for name in ("mine", "with@sign"):
        (tmp_path / name).mkdir()
    hub = "google/gemma-scope-2-1b-pt/clt@mlp.hook_in"
    saes = Saes([f"{tmp_path}/mine/", f"{tmp_path}/with@sign", hub])
    assert saes.units("sae:mine") == f"sae:{tmp_path}/mine/"
    assert saes.units("sae:with@sign") == f"sae:{tmp_path}/with@sign"
    assert saes.units("sae:clt") == f"sae:{hub}"
    for other in ("sae:..", "sae:", f"sae:{tmp_path}/mine", "sae:google"):
        with pytest.raises(NotFound, match="the server has mine, with@sign, clt"):
            saes.units(other)


def test_what_cannot_be_named_is_told_when_the_server_starts(tmp_path):
    with pytest.raises(NotFound, match=r"there is no folder '.*/none' of an SAE for jobs"):
        Saes([f"{tmp_path}/none"])
    with pytest.raises(InvalidArgument, match="two SAEs are called 'a'"):
        Saes(["org/a", "other/a"])
    with pytest.raises(NotFound, match=r"the server has none \(its operator allows one by"):
        Saes([]).units("sae:a")
