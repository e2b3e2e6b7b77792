"""Kinds of neurons and their summary: by hand, and over the wire."""

import numpy as np
import pytest

from polysem.proto.errors import InvalidArgument
from polysem.proto.questions.listing import (
    ListQuery,
    NeuronPage,
    NeuronTable,
    check_list,
    decode_list_query,
    decode_neuron_page,
    encode_neuron_page,
)
from polysem.proto.questions.summary import NEURON_KINDS, kind_of, kinds_of, steps_of, summary_of
from polysem.v1 import neuron_service_pb2 as pb

from ..made_up import LONGEST, TIMING, over_the_wire

NAN = np.nan


@pytest.mark.parametrize(
    ("n", "sizes", "best", "p", "kind"),
    [
        (0, (0, 0), NAN, NAN, "too_few"),
        (19, (19, 0), 0.9, 0.01, "too_few"),
        (20, (20, 0), 0.0, NAN, "one"),
        (20, (18, 2), 0.0, 1.0, "one"),  # whatever chance gives
        (100, (90, 1), 0.9, 0.01, "one"),
        (100, (89, 11), 0.9, 0.01, "few"),
        (100, (50, 10), 0.0, 1.0, "few"),
        (30, (15, 3), 0.0, NAN, "few"),
        (100, (50, 9), 0.3, NAN, "several"),
        (100, (49, 10), 0.3, NAN, "several"),
        (100, (49, 10), 0.2999, NAN, "blurred"),
        (100, (49, 10), 0.2999, 0.05, "several"),  # where it is tested, the test says
        (100, (49, 10), 0.9, 0.051, "blurred"),
        (100, (89, 0), 0.5, NAN, "several"),
    ],
)
def test_a_neuron_is_of_the_first_kind_that_fits(n, sizes, best, p, kind):
    first, second = (np.array([size / n if n else NAN]) for size in sizes)
    found = kinds_of(np.array([n]), first, second, np.array([0.0]), np.array([best]), np.array([p]))
    assert [kind_of(number) for number in found] == [kind]


@pytest.mark.parametrize(("silhouette", "kind"), [(0.29, "blurred"), (0.3, "several"), (NAN, "several")])
def test_without_a_best_silhouette_the_one_at_the_cut_stands_in(silhouette, kind):
    shares, unknown = np.array([0.3]), np.array([NAN])
    found = kinds_of(np.array([5000]), shares, shares / 2, np.array([silhouette]), unknown, unknown)
    assert kind_of(found[0]) == kind


def test_a_neuron_that_was_not_clustered_has_no_kind():
    unknown = np.array([NAN])
    (found,) = kinds_of(np.array([30_000]), *[unknown] * 5)
    assert found == 0
    assert kind_of(found) is None


def test_shares_are_counted_whole_whatever_the_rounding():
    n = np.arange(20, 20_000, 10)
    rest = np.full(len(n), 0.0)
    nine, one, two, five = (share * n // 10 / n for share in (9, 1, 2, 5))
    assert (kinds_of(n, nine, one, rest, rest, rest) == 2).all()
    assert (kinds_of(n, five, one, rest, rest, rest) == 3).all()
    assert (kinds_of(n, five - 1 / n, two, rest, rest, rest) == 3).all()
    assert (kinds_of(n, five - 1 / n, one, rest, rest, rest) == 5).all()


@pytest.mark.parametrize(
    ("best", "step"),
    [(-0.1, 0), (0.0, 0), (0.0499, 0), (0.05, 1), (0.15, 3), (0.3, 6), (0.35, 7), (0.95, 19), (1.0, 19), (NAN, -1)],
)
def test_steps_hold_their_lower_end_and_the_last_also_1(best, step):
    assert steps_of(np.array([20, 19]), np.array([best, best])).tolist() == [step, -1]


def summary():
    return summary_of(
        layers=np.array([2, 5, 7], np.int32),
        neurons=np.array([[2, 0], [2, 3], [7, 1], [7, 2], [7, 3]], np.int32),
        n_examples=np.array([50, 50, 50, 3, 50]),
        best_silhouette=np.array([0.31, 0.34, 1.0, 0.5, NAN]),
        p_value=np.array([0.01, NAN, NAN, NAN, 0.5]),
        kinds=np.array([2, 2, 5, 1, 0], np.int32),
    )


def test_neurons_are_counted_by_layer_step_and_kind():
    found = summary()
    want = np.zeros((3, 20), np.int32)
    want[0, 6], want[2, 19] = 2, 1
    np.testing.assert_array_equal(found.clarity, want)
    assert found.layers.tolist() == [2, 5, 7]
    assert found.kinds == {"too_few": 1, "one": 2, "few": 0, "blurred": 0, "several": 1}
    assert (found.n_neurons, found.n_tested) == (5, 2)


def test_no_neurons_make_an_empty_summary():
    nothing = np.zeros(0)
    found = summary_of(np.array([4], np.int32), np.zeros((0, 2), np.int32), *[nothing] * 3, nothing.astype(np.int32))
    assert not found.clarity.any()
    assert found.clarity.shape == (1, 20)
    assert found.kinds == dict.fromkeys(NEURON_KINDS, 0)


def page(**more):
    columns = {name: np.zeros(2) for name in NeuronTable.__dataclass_fields__}
    whole = {"n_examples", "n_clusters", "rare", "methods", "kinds"}
    columns |= {name: np.zeros(2, np.int32) for name in whole} | {"neurons": np.zeros((2, 2), np.int32)}
    return NeuronPage(NeuronTable(**columns), 2, "", **more)


def test_a_summary_arrives_with_its_page():
    want = summary()
    got = decode_neuron_page(over_the_wire(encode_neuron_page(page(summary=want), LONGEST, TIMING)))[0].summary
    np.testing.assert_array_equal(got.clarity, want.clarity)
    assert got.layers.tolist() == want.layers.tolist()
    assert (got.kinds, got.n_neurons, got.n_tested) == (want.kinds, want.n_neurons, want.n_tested)
    assert decode_neuron_page(encode_neuron_page(page(), LONGEST, TIMING))[0].summary is None


def test_an_older_servers_page_knows_neither_kinds_nor_best_silhouettes():
    message = encode_neuron_page(page(), LONGEST, TIMING)
    for name in ("kinds", "best_silhouette"):
        message.ClearField(name)
    table = decode_neuron_page(over_the_wire(message))[0].table
    assert table.kinds.tolist() == [0, 0]
    assert np.isnan(table.best_silhouette).all()


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"kinds": ("rare",)}, "unknown kind 'rare': choose too_few, one, few, blurred or several"),
        ({"cell": 3}, r"a cell is a layer and a step of clarity, such as \(3, 12\), not 3"),
        ({"cell": (1, 2, 3)}, r"not \(1, 2, 3\)"),
        ({"cell": (-1, 2)}, "layer of cell is -1; it is a whole number from 0"),
        ({"cell": (0, 20)}, "step of cell is 20; it is a whole number from 0 to 19"),
    ],
)
def test_wrong_kinds_and_cells_get_a_sentence(query, words):
    with pytest.raises(InvalidArgument, match=words):
        check_list(ListQuery(**query))


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"kinds": [0]}, "a kind is unspecified: leave it out"),
        ({"kinds": [99]}, "unknown kinds number 99: this version knows too_few, one"),
        ({"cell": pb.ClarityCell(step=20)}, "step of cell is 20"),
    ],
)
def test_the_server_refuses_them_too(request_, words):
    with pytest.raises(InvalidArgument, match=words):
        decode_list_query(pb.ListNeuronsRequest(**request_))
