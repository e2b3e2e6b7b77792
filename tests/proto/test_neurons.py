"""The spellings of neurons: each that is promised, and everything else refused by name."""

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polysem.proto.errors import InvalidArgument
from polysem.proto.neurons import MAX_INDEX, NeuronId, NeuronRange, parse_neurons

ONE = NeuronRange(7, 1234, 1234)


@pytest.mark.parametrize(
    "spelling",
    ["7.1234", " 7.1234\n", "L7N1234", "l7n1234", (7, 1234), NeuronId(7, 1234), NeuronRange(7, 1234, 1234)],
)
def test_one_neuron_has_several_spellings(spelling):
    assert parse_neurons(spelling) == (ONE,)


@pytest.mark.parametrize(
    ("spelling", "meant"),
    [
        ("7.0-99", NeuronRange(7, 0, 99)),
        ("7.5-5", NeuronRange(7, 5, 5)),
        ("7.*", NeuronRange(7)),
        ("*", NeuronRange()),
        (" * ", NeuronRange()),
        ("0.0", NeuronRange(0, 0, 0)),
        ("007.0012", NeuronRange(7, 12, 12)),
        (NeuronRange(), NeuronRange()),
        (NeuronRange(7), NeuronRange(7)),
        (NeuronRange(np.int64(7), np.int64(0), np.int64(9)), NeuronRange(7, 0, 9)),
    ],
)
def test_a_range_has_both_ends(spelling, meant):
    assert parse_neurons(spelling) == (meant,)


@pytest.mark.parametrize("number", [np.int8, np.uint16, np.int32, np.int64])
def test_numbers_of_numpy_count_as_numbers(number):
    (parsed,) = parse_neurons((number(7), number(12)))
    assert parsed == (7, 12, 12)
    assert all(type(part) is int for part in parsed)


def test_lists_are_read_in_their_order():
    nested = ["7.1", [(0, 2), "3.*"], (NeuronId(1, 1), "L2N2")]
    assert [str(r) for r in parse_neurons("*", nested, iter(["5.0-1"]))] == [
        *["*", "7.1", "0.2", "3.*", "1.1", "2.2", "5.0-1"],
    ]


def test_a_neuron_named_twice_stays_named_twice():
    assert parse_neurons("7.1234", (7, 1234)) == (ONE, ONE)


@pytest.mark.parametrize("nothing", [(), ([],), ([[], ()],)])
def test_nothing_named_is_refused(nothing):
    with pytest.raises(InvalidArgument, match=r"no neuron was named: write 7\.1234") as raised:
        parse_neurons(*nothing)
    assert raised.value.field == "neurons"


@pytest.mark.parametrize(
    "nonsense",
    [
        *["12", "7.", ".7", "7.-1", "-1.3", "7.5-", "7.-5", "7.1,2", "7 . 1", "+7.1", "7.1.2", "7..1", "7.1-2-3"],
        *["", " ", "x", "**", "*.3", "7.**", "L7", "N7", "L7.1", "L7N1-2", "L-1N2", "12.5e1", "0x7.1", "7,1", "7_0.1"],
        *["٧.١", "7.1²", "７.１", "7.1\0"],  # digits, but not those of ids
        *[None, 7, 7.5, True, b"7.1", object(), ("7", 1), (7, 1, 2), (7,), (7, 1.5), (7, True), (True, 1), (7.1234,)],
        *[(7, None), {7: 1}, {7, 1}, np.array([7, 1.5]), np.int64(7), (7, np.True_), float("nan"), (float("inf"), 1)],
        *[np.array("7.1"), np.array(7)],
    ],
)
def test_nonsense_is_refused_and_the_spellings_told(nonsense):
    with pytest.raises(InvalidArgument, match=r"is not a neuron: write 7\.1234, L7N1234 or \(7, 1234\)") as raised:
        parse_neurons("7.1", nonsense)
    assert raised.value.field == "neurons"


FRAME = pandas.DataFrame({"layer": [7.0, 1.0], "neuron": [1.0, 2.0], "intra": [0.5, None]})[["layer", "neuron"]]


@pytest.mark.parametrize(
    "rows",
    [
        [(7.0, 1.0), (1.0, 2.0)],
        [[7, 1], [1, 2]],
        np.array([[7, 1], [1, 2]]),
        np.array([[7, 1], [1, 2]], np.float32),
        [row for _, row in FRAME.iterrows()],
        list(FRAME.itertuples(index=False)),
        FRAME.to_numpy(),
        FRAME.to_numpy().tolist(),
        (row for row in FRAME.to_numpy()),
    ],
)
def test_rows_of_two_whole_numbers_are_neurons_whatever_they_are_made_of(rows):
    assert parse_neurons(rows) == (NeuronRange(7, 1, 1), NeuronRange(1, 2, 2))


def test_a_range_that_runs_backwards_is_turned_round():
    with pytest.raises(InvalidArgument, match=r"the range '7\.5-2' runs backwards; write 7\.2-5"):
        parse_neurons("7.5-2")


@pytest.mark.parametrize("negative", [(-1, 3), (7, -1), (np.int64(-1), 0)])
def test_negative_numbers_are_no_neurons(negative):
    with pytest.raises(InvalidArgument, match="counted from 0"):
        parse_neurons(negative)


@pytest.mark.parametrize("n_digits", [10, 20, 5000])  # past 4300 digits Python itself refuses
@pytest.mark.parametrize("spelling", ["{}.1", "7.{}", "7.0-{}", "{}.*", "L{}N1", "L1N{}"])
def test_numbers_too_large_for_the_wire_are_refused(spelling, n_digits):
    with pytest.raises(InvalidArgument, match="is not a neuron") as raised:
        parse_neurons(spelling.format("9" * n_digits))
    assert len(str(raised.value)) < 300


def test_pairs_too_large_for_the_wire_are_refused():
    assert parse_neurons((MAX_INDEX, MAX_INDEX)) == (NeuronRange(MAX_INDEX, MAX_INDEX, MAX_INDEX),)
    for pair in [(MAX_INDEX + 1, 0), (0, MAX_INDEX + 1), (10**5000, 0)]:
        with pytest.raises(InvalidArgument, match="is not a neuron"):
            parse_neurons(pair)


@pytest.mark.parametrize(
    "broken",
    [
        NeuronRange(-1),
        NeuronRange(7, 5, 2),
        NeuronRange(7, 5),
        NeuronRange(7, None, 5),
        NeuronRange(None, 1, 2),
        NeuronRange("7", 1, 2),
        NeuronRange(7, 0, 2**32),
        NeuronRange(True),
    ],
)
def test_a_broken_range_object_is_refused(broken):
    with pytest.raises(InvalidArgument) as raised:
        parse_neurons(broken)
    assert raised.value.field == "neurons"


numbers = st.integers(0, MAX_INDEX)
ranges = st.one_of(
    st.just(NeuronRange()),
    numbers.map(NeuronRange),
    st.tuples(numbers, numbers, numbers).map(lambda t: NeuronRange(t[0], min(t[1:]), max(t[1:]))),
)


@given(ranges)
def test_a_range_prints_as_it_is_written(neurons):
    assert parse_neurons(str(neurons)) == (neurons,)


@given(numbers, numbers)
def test_a_neuron_prints_as_it_is_written(layer, neuron):
    (parsed,) = parse_neurons(str(NeuronId(layer, neuron)))
    assert parsed == (layer, neuron, neuron)
    assert parse_neurons(f"L{layer}N{neuron}") == (parsed,)


@given(st.text(alphabet="0123456789.-*LNln \n٣", max_size=12))
def test_any_text_is_either_parsed_or_refused(text):
    try:
        (parsed,) = parse_neurons(text)
    except InvalidArgument:
        return
    assert parse_neurons(str(parsed)) == (parsed,)
