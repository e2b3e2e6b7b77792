"""What other tools found, as an index: their texts, the model's x̂, and where the two disagree."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from polysem.client.exporting import writing
from polysem.client.questions.kept_names import from_line
from polysem.proto.errors import FailedPrecondition, InvalidArgument, NotFound, PolysemError
from polysem.proto.neurons import NeuronId
from polysem.proto.questions.kept_names import check_name
from polysem.server.importing import building, delphi, names, neuronpedia
from polysem.server.importing.building import Listed
from polysem.server.importing.commands import import_
from polysem.server.importing.found import Found, columns
from polysem.server.index.format import open_index, verify
from polysem.server.indexing.selection import Candidates

PEERS = Path(__file__).parent.parent.parent.parent / "build" / "peers"
SOME = ("0.0-9", "1.5", "L1N7")
READERS = {"delphi": delphi, "neuronpedia": neuronpedia}


def quiet(stage, n, total):
    pass


@pytest.fixture(scope="module", params=READERS)
def imported(request, polysem_client, small_model, tmp_path_factory):
    """An export of whole contexts, and the index that is made of it."""
    folder = tmp_path_factory.mktemp(request.param)
    writing.export(polysem_client, request.param, folder / "export", *SOME, whole_context=True)
    found = READERS[request.param].read(folder / "export", small_model)
    index, compared = building.build(small_model, found, "export", request.param, folder / "index", 100, quiet)
    return SimpleNamespace(
        format=request.param, folder=folder, export=folder / "export", found=found, index=index, compared=compared
    )


# ---- By hand


def test_of_rows_of_one_text_the_strongest_counts_and_of_equals_the_first():
    a, b = NeuronId(0, 1), NeuronId(1, 0)
    found = columns([(b, 0, 3, 0.5), (a, 1, 2, 1.0), (a, 1, 5, 2.0), (a, 1, 4, 2.0), (a, 0, 0, 3.0)])
    assert found["neurons"].tolist() == [[0, 1], [0, 1], [1, 0]]
    assert found["contexts"].tolist() == [0, 1, 0]
    assert found["positions"].tolist() == [0, 4, 3]
    assert found["activations"].tolist() == [3.0, 2.0, 0.5]


def test_at_most_so_many_texts_of_each_neuron_are_taken_the_strongest():
    rows = [(NeuronId(0, 1), i, 0, value) for i, value in enumerate((1.0, 3.0, 2.0, 3.0))]
    found = Found([], [], False, **columns([*rows, (NeuronId(0, 2), 0, 0, 1.0)]), explanations=(), left_out={})
    assert found.strongest(2).contexts.tolist() == [1, 3, 0]
    assert found.strongest(1).activations.tolist() == [3.0, 1.0]


def test_activations_are_compared_where_they_stand_and_how_strong_they_are():
    """Neuron 0 has texts 0 to 3, neuron 1 text 0; the model is not above 0 in text 3."""
    known = Listed(*map(np.array, ([0, 0, 0, 0, 1], [0, 1, 2, 3, 0], [5, 5, 5, 5, 5], [1.0, 1.0, 1.0, 1.0, 1.0])), 2)
    chosen = Candidates(
        np.array([0, 3, 4]),
        np.array([0, 1, 2, 0]),
        np.array([5, 6, 5, 5]),
        np.zeros(4),
        np.array([1.04, 1.0, 1.2, 1.0]),
    )
    assert building.compare(known, chosen) == (5, 1, 1, 1)


# ---- There and back


@pytest.fixture(scope="module")
def wanted(polysem_client, imported):
    """Of each neuron that was exported: it, and the examples that come back.

    delphi's latents are clusters, so single examples are in none; Neuronpedia's tokens are texts, so a text that ends
    within a character has none that the model could read.
    """
    found = {}
    for neuron in polysem_client.cluster(*SOME, n_null=0):
        examples = list(polysem_client.examples(neuron.id, whole_context=True)) if len(neuron.labels) else []
        single = {int(one.members[0]) for one in neuron.clusters if one.size == 1}
        if imported.format == "delphi":
            examples = [one for one in examples if one.example not in single]
        else:
            examples = [one for one in examples if "\ufffd" not in one.text]
        found[neuron.id] = neuron, examples
    return found


def test_what_was_exported_comes_back(imported, wanted):
    """The same texts are examples of the same neurons, at the same tokens, with the model's own activations and x̂."""
    verify(imported.index)
    assert imported.compared.disagreeing == 0
    assert imported.index.info.selection.rule == "top"
    for (layer, number), (_, examples) in wanted.items():
        stored = imported.index.layer(layer)
        mine = slice(stored.offsets[number], stored.offsets[number + 1])
        rows = np.asarray(stored.rows[mine])
        texts = [imported.index.contexts.tokens(int(one)).tolist() for one in np.asarray(stored.row_contexts)[rows]]
        got = zip(texts, np.asarray(stored.row_positions)[rows].tolist(), strict=True)
        assert sorted(got) == sorted((one.token_ids.tolist(), one.position) for one in examples)
        activations = sorted(one.activation for one in examples)
        assert sorted(np.asarray(stored.activations[mine])) == pytest.approx(activations, rel=1e-5)


def test_what_cannot_come_back_is_counted(imported, wanted):
    missing = sum(len(neuron.labels) - len(examples) for neuron, examples in wanted.values())
    assert missing > 0
    assert imported.found.left_out == ({} if imported.format == "delphi" else {neuronpedia.NO_TOKENS: missing})


def test_other_neurons_have_no_examples(imported, polysem_client):
    asked = {tuple(neuron.id) for neuron in polysem_client.statistics(*SOME)}
    have = {tuple(one) for one in np.argwhere(imported.index.n_examples).tolist()}
    assert have <= asked
    assert len(have) > 8


def test_the_imported_index_is_served_and_clustered_alike(imported, checkpoint, wanted):
    import polysem.server

    with polysem.server.local(imported.folder / "index", model=str(checkpoint), device="cpu") as client:
        for now, (then, examples) in zip(client.cluster(*wanted, n_null=0), wanted.values(), strict=True):
            assert len(now.labels) == len(examples)
            if len(then.labels) == len(examples) > 1:
                assert sorted(one.size for one in now.clusters) == sorted(one.size for one in then.clusters)
                assert now.metrics.intra == pytest.approx(then.metrics.intra, abs=1e-3)


def test_explanations_become_names_of_their_texts(imported, polysem_client, wanted):
    """Those of clusters, as they were exported, are of what came back of the cluster."""
    lines = list(names.lines(imported.found.explanations, imported.index))
    found = [from_line(line, imported.index.sha256) for line in lines]
    labels = [one for one in polysem_client.labels(*SOME) if one.size > 1 and one.text]
    back = {id_: {one.example for one in examples} for id_, (_, examples) in wanted.items()}
    sizes = {
        (neuron.id, cluster.label): len(back[neuron.id] & set(cluster.members.tolist()))
        for neuron, _ in wanted.values()
        for cluster in neuron.clusters
    }
    assert sorted((one.neuron, one.text, len(one.members)) for one in found) == sorted(
        (one.neuron, one.text, sizes[one.neuron, one.cluster]) for one in labels if sizes[one.neuron, one.cluster]
    )


def test_a_long_explanation_is_cut_to_a_name_of_one_line(imported):
    some = imported.found.explanations[0]._replace(text="one\n\ttwo " + "x" * 300)
    (line,) = names.lines([some], imported.index)
    name = from_line(line, imported.index.sha256)
    check_name(name)
    assert name.text.startswith("one two xxx")
    assert len(name.text) == 200


# ---- Whole or not there


def test_a_stopped_import_goes_on_and_ends_with_the_same_bytes(imported, small_model, tmp_path):
    def stop(stage, n, total):
        if stage == "collect":
            raise KeyboardInterrupt

    arguments = small_model, imported.found, "export", imported.format, tmp_path / "index", 100
    with pytest.raises(KeyboardInterrupt):
        building.build(*arguments, stop)
    assert not (tmp_path / "index").exists()
    other = imported.found._replace(activations=imported.found.activations * 1.01)
    with pytest.raises(FailedPrecondition, match="begun with other files"):
        building.build(small_model, other, "export", imported.format, tmp_path / "index", 100, quiet)
    index, compared = building.build(*arguments, quiet)
    assert index.sha256 == imported.index.sha256
    assert compared == imported.compared
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_activations_that_differ_are_counted_and_those_of_another_model_refused(imported, small_model, tmp_path):
    some = imported.found.activations.copy()
    some[:2] *= 1.2
    index, compared = building.build(
        small_model, imported.found._replace(activations=some), "export", imported.format, tmp_path / "a", 100, quiet
    )
    assert compared.differing == 2
    assert np.array_equal(index.layer(0).activations, imported.index.layer(0).activations)
    every = imported.found._replace(activations=imported.found.activations * 1.2)
    with pytest.raises(FailedPrecondition, match="come from another model"):
        building.build(small_model, every, "export", imported.format, tmp_path / "b", 100, quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_is_no_cache_of_delphi_is_a_sentence(small_model, tmp_path):
    with pytest.raises(NotFound, match="no cache of delphi"):
        delphi.read(tmp_path, small_model)
    module = tmp_path / "blocks.0.mlp.hook_post"
    module.mkdir()
    (module / "config.json").write_text("{}")
    good = {
        "locations": np.array([[0, 1, 3]], np.uint16),
        "activations": np.array([1.0], np.float16),
        "tokens": np.array([[1, 2]]),
    }

    def said(error, **changed):
        save_file(good | changed, module / "0_9.safetensors")
        with pytest.raises(error) as raised:
            delphi.read(tmp_path, small_model)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    assert "names neuron 0.131071" in said(InvalidArgument, locations=np.array([[0, 1, 131071]], np.uint32))
    assert "has token 50256" in said(InvalidArgument, tokens=np.array([[1, 50256]]))
    assert "reads 32 at once" in said(InvalidArgument, tokens=np.ones((1, 40), np.int64))
    assert "do not fit together" in said(FailedPrecondition, activations=np.zeros(2, np.float16))
    (module / "0_9.safetensors").write_bytes(b"short")
    with pytest.raises(FailedPrecondition, match="cannot read"):
        delphi.read(tmp_path, small_model)
    module.rename(tmp_path / "mlp")
    save_file(good, tmp_path / "mlp" / "0_9.safetensors")
    with pytest.raises(InvalidArgument, match="names no layer"):
        delphi.read(tmp_path, small_model)


def test_a_latent_is_the_neuron_of_its_number_where_nothing_else_is_said(small_model, tmp_path):
    """Latent 3 + 4 of layer 1: in text 0 strongest at 2, behind BOS, in text 1 at 0, before what fills it up."""
    module = tmp_path / "layers.1.mlp"
    module.mkdir()
    (module / "config.json").write_text("{}")
    bos = small_model.tokenizer.bos_id
    data = {
        "locations": np.array([[0, 0, 3], [0, 2, 3], [0, 1, 3], [1, 0, 3], [1, 3, 3]], np.uint16),
        "activations": np.array([9.0, 2.0, 1.0, 4.0, 8.0], np.float16),
        "tokens": np.array([[bos, 5, 6, bos], [7, 8, bos, bos]]),
    }
    save_file(data, module / "4_9.safetensors")
    found = delphi.read(tmp_path, small_model)
    assert [text.tolist() for text in found.texts] == [[bos, 5, 6], [7, 8]]
    assert found.neurons.tolist() == [[1, 7], [1, 7]]
    assert (found.positions.tolist(), found.activations.tolist()) == ([2, 0], [2.0, 4.0])
    assert not found.bos


def test_what_is_no_export_of_neuronpedia_is_a_sentence(small_model, tmp_path):
    with pytest.raises(NotFound, match="no export of Neuronpedia"):
        neuronpedia.read(tmp_path, small_model)
    (tmp_path / "activations").mkdir()
    good = {"id": "c1", "layer": "0-neurons", "index": "3", "tokens": ["t", "h", "e"], "values": [0.0, 2.0, 1.0]}

    def read(*rows):
        lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        (tmp_path / "activations" / "batch-0.jsonl.gz").write_bytes(gzip.compress(lines))
        return neuronpedia.read(tmp_path, small_model)

    (tmp_path / "explanations").mkdir()
    said = {
        "layer": "0-neurons",
        "index": "3",
        "description": "the",
        "authorId": "Ada",
        "createdAt": "2026-03-01T12:00:00",
    }
    (tmp_path / "explanations" / "batch-0.jsonl").write_text(json.dumps(said) + "\n")
    (explained,) = read(good).explanations
    assert (explained.texts, explained.method, explained.author) == (None, "person", "Ada")
    assert explained.time.isoformat() == "2026-03-01T12:00:00+00:00"
    found = read(good, good | {"tokens": [" the", " cat", "!"]}, good | {"values": [0, 0, -1]})
    assert found.left_out == {neuronpedia.NO_TOKENS: 1, neuronpedia.NOT_POSITIVE: 1}
    assert (found.positions.tolist(), found.activations.tolist()) == ([1], [2.0])
    for error, words, changed in (
        (InvalidArgument, "names neuron 0.9000", {"index": "9000"}),
        (InvalidArgument, "names neuron 7.3", {"layer": "7-neurons"}),
        (InvalidArgument, "has the tokens of none of the 1 texts", {"tokens": ["th", "e", "!"]}),
        (FailedPrecondition, "no row of Neuronpedia: 2 values for 3 tokens", {"values": [0, 1]}),
        (FailedPrecondition, "no row of Neuronpedia", {"layer": "res"}),
    ):
        with pytest.raises(error, match=words):
            read(good | changed)
    with pytest.raises(FailedPrecondition, match=r"batch-0.jsonl.gz, line 2, has no values"):
        read(good, {name: value for name, value in good.items() if name != "values"})
    (tmp_path / "activations" / "batch-0.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(FailedPrecondition, match="cannot read"):
        neuronpedia.read(tmp_path, small_model)


def test_rows_as_neuronpedia_itself_exports_them(small_model, tmp_path):
    """With null where its database has nothing, columns that are not read, and tokens by SAEDashboard's names."""
    row = {
        "id": "c1", "layer": "0-neurons", "index": "3", "modelId": "gpt2", "tokens": ["t", "h", "e"],
        "values": [0.0, 2.0, 1.0], "maxValue": 2.0, "maxValueTokenIndex": 1, "minValue": 0.0, "dataIndex": None,
        "dataSource": None, "binMin": None, "binMax": None, "binContains": None, "qualifyingTokenIndex": None,
        "creatorId": None, "dfaValues": [], "lossValues": [], "logitContributions": None,
    }  # fmt: skip
    named = {"tokens": ["<|endoftext|>", "f", "Ã", "©", " "], "values": [9.0, 0.0, 1.0, 4.0, 0.0], "dataIndex": 0}
    text = {"id": "e1", "modelId": "gpt2", "layer": "0-neurons", "index": "3", "authorId": None, "embedding": None}
    explanations = [
        text | {"description": "the", "typeName": "oai_token-act-pair", "explanationModelName": "gpt-4o-mini"},
        text | {"description": "of nobody", "typeName": None, "explanationModelName": None, "umap_x": 0},
        text | {"description": None, "typeName": None, "explanationModelName": None},
    ]
    for kind, rows in {
        "features": [{"vector": []}],
        "activations": [row, row | named],
        "explanations": explanations,
    }.items():
        (tmp_path / "0-neurons" / kind).mkdir(parents=True)
        lines = b"".join(json.dumps(one).encode() + b"\n" for one in rows)
        (tmp_path / "0-neurons" / kind / "batch-0.jsonl.gz").write_bytes(gzip.compress(lines))
    found = neuronpedia.read(tmp_path, small_model)
    bos = small_model.tokenizer.bos_id
    whole = [[*small_model.tokenizer.encode(["the"])[0]], [bos, *small_model.tokenizer.encode(["fé "])[0]]]
    assert [one.tolist() for one in found.texts] == whole
    assert (found.documents, found.left_out) == (["text 1", "0"], {})
    assert (found.positions.tolist(), found.activations.tolist()) == ([1, 3], [2.0, 4.0])
    said = [(one.text, one.method, one.author) for one in found.explanations]
    assert said == [("the", "model", "gpt-4o-mini"), ("of nobody", "person", neuronpedia.UNKNOWN)]


def test_a_text_of_our_own_is_not_read_by_names(small_model, tmp_path):
    """`é` is the name of a byte, and no text in which it stands alone is whole."""
    tokens = ["a", "é"]
    assert neuronpedia._Ids(small_model)(tokens) is None
    (space,) = small_model.tokenizer.encode([" "])[0]
    known = small_model.tokenizer.named(["Ġ", " ", "<|endoftext|>", "the"])
    assert known == [space, space, small_model.tokenizer.bos_id, None]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"tokens": "the"}, "its tokens are no list of texts"),
        ({"tokens": ["t", None, "e"]}, "its tokens are no list of texts"),
        ({"values": [[0.0], [2.0], [1.0]]}, "3 values for 3 tokens"),
        ({"values": [0.0, None, 1.0]}, "is no row of Neuronpedia"),
        ({"index": None}, "is no row of Neuronpedia"),
        ({"layer": None}, "is no row of Neuronpedia"),
        ({"index": 10**40}, "names neuron 0.1"),
        ({"binMax": "high"}, "is no row of Neuronpedia"),
    ],
)
def test_a_row_with_a_wrong_field_is_a_sentence_with_its_place(small_model, tmp_path, changed, words):
    row = {"layer": "0-neurons", "index": "3", "tokens": ["t", "h", "e"], "values": [0.0, 2.0, 1.0]}
    (tmp_path / "activations").mkdir()
    (tmp_path / "activations" / "batch-0.jsonl").write_text(json.dumps(row | changed))
    with pytest.raises(PolysemError, match=words) as raised:
        neuronpedia.read(tmp_path, small_model)
    assert raised.value.message.startswith("batch-0.jsonl, line 1,")
    assert "\n" not in raised.value.message


def test_a_file_that_breaks_off_is_a_sentence(small_model, tmp_path):
    whole = gzip.compress(bytes(range(256)) * 100)
    (tmp_path / "activations").mkdir()
    for data in (whole[:60], whole[:30] + b"\xff" * 40 + whole[70:]):
        (tmp_path / "activations" / "batch-0.jsonl.gz").write_bytes(data)
        with pytest.raises(FailedPrecondition, match="copy it again"):
            neuronpedia.read(tmp_path, small_model)


@pytest.fixture(scope="module")
def delphis(checkpoint, corpus_file, tmp_path_factory):
    """A cache of all MLP neurons of the checkpoint that delphi itself wrote."""
    if not (PEERS / "delphi").is_dir():
        if os.environ.get("POLYSEM_NEEDS_PEERS"):
            pytest.fail("no delphi: make peers")
        pytest.skip("no delphi: make peers")
    folder = tmp_path_factory.mktemp("delphis")
    texts = [json.loads(line)["text"] for line in corpus_file.read_text().splitlines()]
    (folder / "texts.json").write_text(json.dumps(texts[:40]))
    script = Path(__file__).with_name("write_by_delphi.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, checkpoint, folder / "texts.json", folder / "latents"],
        env=os.environ | {"PYTHONPATH": str(PEERS)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder / "latents"


def test_a_cache_that_delphi_wrote_is_imported(delphis, small_model, tmp_path):
    """Its half floats are the model's activations; rows lie across texts. Only where a row begins with the end of a
    text may the model be strongest there, which delphi's reader never counts."""
    found = delphi.read(delphis, small_model)
    assert set(map(tuple, found.neurons.tolist())) <= {(layer, number) for layer in (0, 1) for number in range(96)}
    assert len(np.unique(found.neurons, axis=0)) > 150
    assert {len(text) for text in found.texts} <= {15, 16}
    assert found.explanations == []
    index, compared = building.build(small_model, found, "latents", "delphi", tmp_path / "index", 100, quiet)
    assert (compared.differing, compared.silent) == (0, 0)
    begins = np.array([text[0] == small_model.tokenizer.bos_id for text in found.texts])
    assert compared.elsewhere <= begins[found.contexts].sum() < compared.n / 20
    assert index.info.n_examples == compared.n


def test_parts_of_texts_are_refused_as_the_model_reads_them_otherwise(polysem_client, small_model, tmp_path):
    """An export without whole contexts: 31 tokens around each key token, which begin in the middle."""
    writing.export(polysem_client, "delphi", tmp_path / "export", *SOME)
    found = delphi.read(tmp_path / "export", small_model)
    with pytest.raises(FailedPrecondition, match="parts of longer texts"):
        building.build(small_model, found, "export", "delphi", tmp_path / "index", 100, quiet)


def test_the_command_says_what_it_made(imported, checkpoint, tmp_path):
    out = tmp_path / "back"
    arguments = [imported.export, "--format", imported.format, "--model", checkpoint, "--device", "cpu", "--out", out]
    done = CliRunner().invoke(import_, [str(one) for one in arguments])
    assert done.exit_code == 0, done.output
    n = len(imported.found.activations)
    assert f"{n:,} of {n:,} activations agree with the model's within 5 %" in done.output
    assert "explanations as names" in done.output
    assert open_index(out).info.n_examples == n
    assert (tmp_path / "back.names.jsonl").is_file()
    again = CliRunner().invoke(import_, [str(one) for one in arguments])
    assert "exists already" in str(again.exception)


def test_the_names_that_import_wrote_are_kept_by_a_server(imported, checkpoint, tmp_path):
    import polysem.server
    from polysem.client.commands.cli import cli

    out = tmp_path / "back"
    arguments = [imported.export, "--format", imported.format, "--model", checkpoint, "--device", "cpu", "--out", out]
    assert CliRunner().invoke(import_, [str(one) for one in arguments]).exit_code == 0
    lines = (tmp_path / "back.names.jsonl").read_text().splitlines()
    with polysem.server.local(out, model=str(checkpoint), device="cpu", state=tmp_path / "state") as client:
        done = CliRunner().invoke(cli, ["names", "import", f"{out}.names.jsonl", "--server", client.target])
        assert done.exit_code == 0, done.output
        assert done.output == f"{len(lines)} names, {len(lines)} of them new or changed\n"
        kept = {(one.neuron, one.members, one.text) for one in client.names()}
    assert kept == {
        (one.neuron, one.members, one.text) for one in (from_line(line, open_index(out).sha256) for line in lines)
    }
