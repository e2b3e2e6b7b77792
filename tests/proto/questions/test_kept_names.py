"""Kept names on the wire, and sets of members as text."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polysem.proto.errors import InvalidArgument
from polysem.proto.neurons import NeuronId
from polysem.proto.questions import kept_names
from polysem.proto.questions.kept_names import KeptName, NameScores, members_text, parse_members
from polysem.proto.wire import batches
from polysem.v1 import neuron_service_pb2 as pb

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
NAME = KeptName(NeuronId(2, 185), (0, 1, 2, 7), "`def` after `@`", "person", "ada", AT)


@pytest.mark.parametrize(("members", "text"), [((0, 1, 2, 3, 7), "0-3,7"), ((5,), "5"), ((0, 2, 4), "0,2,4"), ((), "")])
def test_members_are_written_as_ranges(members, text):
    assert members_text(members) == text


@given(st.sets(st.integers(0, 10**6), min_size=1, max_size=60))
def test_members_come_back_from_their_text(members):
    assert parse_members(members_text(sorted(members))) == tuple(sorted(members))


@pytest.mark.parametrize("text", ["", "-", "3-1", "1,1", "2,1", "0-3,3", "a", "1 2", "1,", "-1", "٣", "9" * 9])
def test_other_texts_are_no_members(text):
    with pytest.raises(InvalidArgument, match="write ascending numbers and ranges"):
        parse_members(text)


def test_a_name_comes_back_from_its_request():
    scored = NAME._replace(method="model", scores=NameScores(0.9, 0.5, None, None), side="negative")
    for name in (NAME, scored, NAME._replace(text="", author="", time=None)):
        request = kept_names.encode_names([name], "small", name.side)
        assert kept_names.decode_names(request) == [name]


@pytest.mark.parametrize("max_bytes", [33_000, 1 << 20])
def test_names_arrive_in_messages_of_any_size(max_bytes):
    names = [NAME._replace(neuron=NeuronId(1, i), members=tuple(range(1, 2 + i)), text=f"name {i}") for i in range(60)]
    joiner = batches.Joiner(kept_names.NameBatch)
    found = [joiner.add(m) for m in batches.encode_batch(kept_names.names_batch(names), {}, max_bytes)]
    texts = [text for batch in found if batch for text in batch.texts]
    members = np.concatenate([batch.members for batch in found if batch])
    assert texts == [name.text for name in names]
    assert members.tolist() == [member for name in names for member in name.members]


@pytest.mark.parametrize(
    ("wrong", "field", "words"),
    [
        ({"members": ()}, "members", "at least one"),
        ({"members": (3, 3)}, "members", "ascending"),
        ({"members": (4, 2)}, "members", "ascending"),
        ({"text": "two\nlines"}, "text", "characters that cannot be seen"),
        ({"text": "a\u202eb"}, "text", "characters that cannot be seen"),
        ({"text": "x" * 201}, "text", "has 201 characters; give at most 200"),
        ({"author": "y" * 81}, "author", "give at most 80"),
        ({"method": "rule"}, "method", "unknown method 'rule'"),
        ({"scores": NameScores(1.5)}, "scores", "from 0 to 1"),
    ],
)
def test_what_cannot_be_kept_is_told(wrong, field, words):
    with pytest.raises(InvalidArgument, match=words) as raised:
        kept_names.check_name(NAME._replace(**wrong))
    assert raised.value.field == field


def test_a_server_says_which_name_of_a_request_is_wrong():
    request = kept_names.encode_names([NAME, NAME], "", "positive")
    request.names[1].text = "a\tb"
    with pytest.raises(InvalidArgument) as raised:
        kept_names.decode_names(request)
    assert raised.value.field == "names[1].text"
    request.names[1].CopyFrom(pb.KeptName(layer=1, members=[1], text="x", scores=[1.0]))
    with pytest.raises(InvalidArgument, match="there are 1 scores; give none or four"):
        kept_names.decode_names(request)


def test_letters_that_need_joiners_can_be_kept():
    for text in ("می\u200cخواهم", "👩\u200d🔬 science", "日本語", "naïve"):
        kept_names.check_name(NAME._replace(text=text))
