"""Indexing: what a plain forward pass and the definitions say, however it is batched, stopped or killed."""

import dataclasses
import json
import os
import random
import signal
import string
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from polysem.proto.errors import BadCorpus, DamagedIndex, FailedPrecondition, InvalidArgument, NotFound
from polysem.proto.facts import Selection
from polysem.proto.work import shards
from polysem.server.corpus import documents as corpora
from polysem.server.corpus.documents import Corpus, CorpusDigest
from polysem.server.index import format as indexes
from polysem.server.indexing import builder
from polysem.server.indexing.builder import Recipe
from polysem.server.model.loading import load

N = 96  # neurons a layer
DEAD = (1, 3)  # of the shared checkpoint: never positive
BLOCK = 7  # characters

RECIPES = {
    "the paper's": Recipe(Selection("first", 0.75, 100)),
    "the first few": Recipe(Selection("first", 0.4, 5)),
    "the strongest": Recipe(Selection("top", 0.75, 5)),
    "all windows": Recipe(Selection("first", 0.5, 10), context_length=BLOCK + 1, windows="all"),
    "all windows, the strongest": Recipe(Selection("top", 0.5, 10), context_length=BLOCK + 1, windows="all"),
    "without BOS": Recipe(Selection("first", 0.5, 10), context_length=BLOCK, windows="all", bos=False),
}
FEW = RECIPES["the first few"]


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Products as small as these are slower in several threads, much slower on a busy machine."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def distinct_file(tmp_path_factory):
    """31 documents of up to 3 blocks of 7 characters, no two blocks beginning alike.

    Contexts that begin alike have equal activations up to rounding, and rounding depends on what is read together:
    here no two activations are that close, so every rule has one answer.
    """
    dice = random.Random(0)
    firsts = [c for c in string.printable if not c.isspace()]  # 94 of them
    path = tmp_path_factory.mktemp("distinct") / "distinct.jsonl"
    lines = []
    for d in range(31):
        blocks = [firsts[3 * d + b] + "".join(dice.choices(string.ascii_lowercase, k=BLOCK - 1)) for b in range(3)]
        text = "".join(blocks)[: 3 * BLOCK - d % 17]
        lines.append(json.dumps({"id": f"d{d}", "text": text}) + "\n")
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="module")
def build(small_model, distinct_file, tmp_path_factory):
    """A function that builds an index into a new folder, or into `out`."""

    def build(recipe=FEW, corpus=distinct_file, out=None, loaded=small_model, **options):
        source = corpus if isinstance(corpus, Corpus) else Corpus(str(corpus))
        return builder.build(loaded, source, out or tmp_path_factory.mktemp("built") / "index", recipe, **options)

    return build


# ---- Against a plain forward pass


class Context(NamedTuple):
    """A window as the model read it: ids, and of each layer x̂ (T, D) and activations (T, N), float64."""

    document: str
    ids: list[int]
    xhat: list[np.ndarray]
    activations: list[np.ndarray]


def normalise(x):
    centred = x - x.mean(axis=1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)


@pytest.fixture(scope="module")
def read_plainly(checkpoint, distinct_file):
    """A function: the contexts of a recipe, each read alone by transformers' own GPT-2."""
    from transformers import AutoTokenizer, GPT2LMHeadModel

    gpt2 = GPT2LMHeadModel.from_pretrained(checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    seen = {}
    for layer, block in enumerate(gpt2.transformer.h):
        block.ln_2.register_forward_pre_hook(lambda _, inputs, layer=layer: seen.update({("x", layer): inputs[0][0]}))
        block.mlp.act.register_forward_hook(lambda _, __, a, layer=layer: seen.update({("a", layer): a[0]}))

    @torch.inference_mode()
    def read_window(document, ids):
        gpt2(torch.tensor([ids]))
        x, a = ([seen[what, layer].numpy().astype(np.float64) for layer in range(2)] for what in "xa")
        return Context(document, ids, list(map(normalise, x)), a)

    def read(recipe):
        head = [] if recipe.bos is False else [256]
        room = (recipe.context_length or 32) - len(head)
        contexts = []
        for line in distinct_file.read_text().splitlines():
            record = json.loads(line)
            ids = tokenizer(record["text"], add_special_tokens=False)["input_ids"]
            starts = range(0, len(ids), room) if recipe.windows == "all" else [0]
            contexts += [read_window(record["id"], head + ids[start : start + room]) for start in starts]
        return contexts

    return read


def chosen_reference(maxima, rule):
    """Which contexts the rule chooses, from one neuron's key activations (C,)."""
    positive = [c for c, a in enumerate(maxima) if a > 0]
    if rule.rule == "first":
        return [c for c in positive if maxima[c] >= rule.min_activation_fraction * maxima.max()][: rule.max_examples]
    return sorted(sorted(positive, key=lambda c: (-maxima[c], c))[: rule.max_examples])


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_an_index_is_what_a_plain_forward_pass_and_the_rules_say(build, read_plainly, recipe):
    index, contexts = build(recipe), read_plainly(recipe)
    first_text = int(recipe.bos is not False)  # BOS is never a key token
    assert [index.contexts.tokens(c).tolist() for c in range(len(index.contexts))] == [c.ids for c in contexts]
    assert [index.contexts.document(c) for c in range(len(contexts))] == [c.document for c in contexts]
    for layer in range(2):
        stored = index.layer(layer)
        maxima = np.array([context.activations[layer][first_text:].max(axis=0) for context in contexts])  # (C, N)
        for j in range(N):
            chosen = chosen_reference(maxima[:, j], recipe.selection)
            examples = range(stored.offsets[j], stored.offsets[j + 1])
            assert [stored.row_contexts[stored.rows[e]] for e in examples] == chosen, (layer, j)
            for e, c in zip(examples, chosen, strict=True):
                row, a = stored.rows[e], contexts[c].activations[layer][:, j]
                key = int(a[first_text:].argmax()) + first_text
                around = np.zeros(31)
                first, last = max(key - 20, 0), min(key + 11, len(a))
                around[first - key + 20 : last - key + 20] = a[first:last]
                assert stored.row_positions[row] == key
                np.testing.assert_allclose(stored.activations[e], a[key], rtol=1e-5)
                np.testing.assert_allclose(stored.xhat[row], contexts[c].xhat[layer][key], rtol=2e-3, atol=1e-4)  # fp16
                np.testing.assert_allclose(stored.around[e], around, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["the first few", "all windows"])
def test_statistics_describe_the_key_activations(build, read_plainly, name):
    index, contexts = build(RECIPES[name]), read_plainly(RECIPES[name])
    per_layer = [np.array([c.activations[layer][1:].max(axis=0) for c in contexts]) for layer in range(2)]
    key_activations = np.concatenate(per_layer, axis=1)  # (C, J)
    names = ("maximum", "mean", "share_positive", "histogram")
    maximum, mean, share, histogram = (np.load(index.folder / "statistics" / f"{name}.npy") for name in names)
    np.testing.assert_allclose(maximum, key_activations.max(axis=0), rtol=1e-5)
    np.testing.assert_allclose(mean, key_activations.mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(share, (key_activations > 0).mean(axis=0), rtol=1e-6)
    assert histogram.shape == (2 * N, 64)
    np.testing.assert_array_equal(histogram.sum(axis=1), (key_activations > 0).sum(axis=0))
    for j in range(2 * N):
        positive = key_activations[:, j][key_activations[:, j] > 0]
        edges = np.linspace(0, max(key_activations[:, j].max(), 1e-30), 65)
        if not (np.abs(positive[:, None] - edges[1:-1]) < 1e-5 * edges[-1]).any():  # else rounding decides
            np.testing.assert_array_equal(histogram[j], np.histogram(positive, edges)[0])


def test_a_neuron_that_is_never_positive_has_no_examples(build):
    index = build()
    flat = DEAD[0] * N + DEAD[1]
    assert index.n_examples[DEAD] == 0
    assert index.info.n_neurons_with_examples == 2 * N - 1
    assert np.load(index.folder / "statistics" / "histogram.npy")[flat].sum() == 0
    assert np.load(index.folder / "statistics" / "maximum.npy")[flat] <= 0


def test_a_key_token_is_stored_once_however_many_neurons_share_it(build):
    index = build()
    for layer in range(2):
        stored = index.layer(layer)
        places = list(zip(stored.row_contexts.tolist(), stored.row_positions.tolist(), strict=True))
        assert len(set(places)) == len(places) == len(stored.xhat) < len(stored.rows)
        assert places == sorted(places)
        assert set(stored.rows.tolist()) == set(range(len(places)))


def test_the_manifest_says_what_the_index_is(build, distinct_file, small_model):
    index = build()
    info, manifest = index.info, index.manifest
    digest = CorpusDigest()
    for document in Corpus(str(distinct_file)).documents():
        digest.add(document)
    on_disk = {path.relative_to(index.folder).as_posix() for path in index.folder.rglob("*") if path.is_file()}
    assert info.corpus_sha256 == digest.hexdigest()
    assert (info.n_documents, info.n_contexts, info.n_layers, info.n_neurons_per_layer) == (31, 31, 2, N)
    assert info.n_tokens == index.contexts.lengths().sum()
    assert info.n_examples == index.n_examples.sum()
    assert info.model_sha256 == small_model.info.sha256
    assert manifest["tokenizer_sha256"] == small_model.tokenizer.sha256
    assert manifest["model"]["dtype"] == "float32"
    assert set(manifest["files"]) == on_disk - {"manifest.json", "manifest.sha256"}
    assert indexes.verify(index) == sum(file["bytes"] for file in manifest["files"].values())


def test_bad_documents_that_were_left_out_are_counted(build, tmp_path):
    path = tmp_path / "some.jsonl"
    path.write_text('{"text": "good"}\nno JSON\n{"text": "also"}\n')
    with pytest.raises(BadCorpus, match=r"line 2 of .* is not JSON"):
        build(corpus=path, out=tmp_path / "strict")
    assert not (tmp_path / "strict").exists()
    index = build(corpus=Corpus(str(path), skip_bad=True))
    assert index.manifest["corpus"]["n_skipped"] == 1
    assert index.info.n_documents == 2


def test_max_documents_is_how_many_are_read(build, distinct_file):
    index = build(corpus=Corpus(str(distinct_file), max_documents=4))
    assert [index.contexts.document(c) for c in range(len(index.contexts))] == ["d0", "d1", "d2", "d3"]


def test_a_model_that_is_damaged_is_told_by_its_first_neuron(build, make_checkpoint, tmp_path):
    damaged = load(str(make_checkpoint("damaged")), "cpu")
    with torch.inference_mode():
        damaged.mlps[1].biases[7] = float("nan")
    with pytest.raises(FailedPrecondition, match=r"neuron 1\.7 has the activation nan in context \d+: the weights are"):
        build(loaded=damaged, out=tmp_path / "index")
    assert not (tmp_path / "index").exists()


# ---- However it is batched


def assert_same_selection(got, want):
    """The same examples, and numbers that differ by rounding only."""
    assert list(got.manifest["files"]) == list(want.manifest["files"])
    for name in want.manifest["files"]:
        a, b = np.load(got.folder / name), np.load(want.folder / name)
        kind = Path(name).stem
        if kind in ("xhat", "around"):
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4)  # float16
        elif kind in ("activations", "maximum", "mean"):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize("batch_tokens", [1, 70, 10**9])
@pytest.mark.parametrize("name", ["the first few", "all windows, the strongest"])
def test_the_selection_does_not_depend_on_what_is_read_together(build, name, batch_tokens):
    # The bytes may differ: a matrix product rounds differently with the number of its rows.
    assert_same_selection(build(RECIPES[name], batch_tokens=batch_tokens), build(RECIPES[name]))


@pytest.mark.parametrize("contexts_a_shard", [2, 7, 31])
def test_the_selection_does_not_depend_on_the_shards(build, monkeypatch, contexts_a_shard):
    want = build()
    monkeypatch.setattr(shards, "SHARD_CONTEXTS", contexts_a_shard)
    assert_same_selection(build(), want)


@pytest.mark.parametrize("batch_tokens", [32, 100, 300, 1000])
@pytest.mark.parametrize("rule", [Selection("top", 0.75, 10), Selection("first", 0.5, 10)])
def test_documents_that_begin_alike_stay_ties_however_they_are_batched(build, corpus_file, rule, batch_tokens):
    recipe = Recipe(rule)
    want, got = (build(recipe, corpus=corpus_file, batch_tokens=n) for n in (4096, batch_tokens))
    assert_same_selection(got, want)


def test_progress_counts_every_document_token_and_layer_once_a_stage(build):
    told = {}
    info = build(progress=lambda stage, n, total: told.setdefault(stage, []).append((n, total))).info
    assert list(told) == ["tokenise", "scan", "choose", "collect", "write"]
    for stage, want in {
        "tokenise": 31,
        "scan": info.n_tokens,
        "choose": 2,
        "collect": info.n_tokens,
        "write": 2,
    }.items():
        assert sum(n for n, _ in told[stage]) == want
        assert {total for _, total in told[stage]} == {None if stage == "tokenise" else want}


# ---- Stopped, killed, resumed


class Interrupted(Exception):
    pass


def interrupted(at, stage):
    """A progress that raises when the stage has got so far."""
    seen = 0

    def progress(name, n, total):
        nonlocal seen
        seen += name == stage
        if seen == at:
            raise Interrupted

    return progress


@pytest.mark.parametrize(("stage", "at"), [("tokenise", 3), ("scan", 1), ("scan", 3), ("collect", 2), ("write", 1)])
def test_a_build_that_was_stopped_goes_on_to_the_same_bytes(build, tmp_path, monkeypatch, stage, at):
    monkeypatch.setattr(shards, "SHARD_CONTEXTS", 8)
    monkeypatch.setattr(corpora, "RANGE_BYTES", 400)
    out, unfinished = tmp_path / "index", tmp_path / "index.tmp"
    with pytest.raises(Interrupted):
        build(out=out, progress=interrupted(at, stage))
    assert not out.exists()
    for folder in (out, unfinished, unfinished / "index"):
        with pytest.raises((NotFound, DamagedIndex)):
            indexes.open_index(folder)
    read = []
    index = build(out=out, progress=lambda stage, n, total: read.append(stage))
    assert index.sha256 == build().sha256
    assert ("tokenise" in read) == (stage == "tokenise")  # what was done is not done again
    assert not unfinished.exists()


KILLED = """
    # Builds an index, again and again, and kills itself at the n-th time that it touches one of its files.
    import os, signal, sys
    from polysem.proto.facts import Selection
    from polysem.proto.work import shards
    from polysem.server.corpus import documents
    from polysem.server.corpus.documents import Corpus
    from polysem.server.indexing import builder
    from polysem.server.model.loading import load
    from transformers import AutoConfig, AutoTokenizer, GPT2Model  # so that not every child must

    shards.SHARD_CONTEXTS = 8
    documents.RANGE_BYTES = 400
    checkpoint, corpus, out = sys.argv[1:4]

    def build(n_touches):
        left = n_touches

        def touched(event, arguments):
            nonlocal left
            if event in ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove") and out in str(arguments[0]):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        loaded = load(checkpoint, "cpu")
        sys.addaudithook(touched)
        recipe = builder.Recipe(Selection("first", 0.4, 5))
        builder.build(loaded, Corpus(corpus), builder.Path(out), recipe)

    for n_touches in sys.argv[4:]:  # each in a process of its own; the imports are shared
        child = os.fork()
        if child == 0:
            build(int(n_touches))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), os.path.exists(out), flush=True)
"""


def test_a_build_that_is_killed_again_and_again_ends_with_the_same_bytes(
    build, checkpoint, distinct_file, tmp_path, monkeypatch
):
    out = tmp_path / "index"
    # Each start goes on from the one before and gets a little further; the last is left alone.
    points = [4, 13, 22, 33, 45, 60, 75, 90, 10**9]
    command = [sys.executable, "-c", textwrap.dedent(KILLED), checkpoint, distinct_file, out, *map(str, points)]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert run.returncode == 0, run.stderr
    *killed, lived = run.stdout.splitlines()
    assert killed == [f"{-signal.SIGKILL} False"] * 8, run.stderr  # no half index was ever there
    assert lived == "0 True", run.stderr
    index = indexes.open_index(out)
    indexes.verify(index)
    monkeypatch.setattr(shards, "SHARD_CONTEXTS", 8)
    assert index.sha256 == build().sha256
    assert not out.with_name("index.tmp").exists()


@pytest.fixture
def unfinished(build, tmp_path):
    """The place of a build that was stopped in the middle of its scan."""
    with pytest.raises(Interrupted):
        build(out=tmp_path / "index", progress=interrupted(1, "scan"))
    return tmp_path / "index"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"selection": Selection("top", 0.4, 5)}, "selection"),
        ({"selection": Selection("first", 0.5, 5)}, "selection"),
        ({"context_length": 16}, "context_length"),
        ({"windows": "all"}, "windows"),
        ({"bos": False}, "bos"),
        ({"bos": False, "windows": "all"}, "windows and bos"),
    ],
)
def test_another_recipe_does_not_go_on_with_a_build(build, unfinished, change, named):
    with pytest.raises(FailedPrecondition, match=f"was begun with another {named}; go on with the same arguments"):
        build(dataclasses.replace(FEW, **change), out=unfinished)
    assert build(out=unfinished).folder == unfinished  # nothing was lost


@pytest.mark.parametrize("options", [{"max_documents": 5}, {"skip_bad": True}, {"text_field": "id"}])
def test_other_options_of_the_corpus_do_not_go_on_with_a_build(build, distinct_file, unfinished, options):
    with pytest.raises(FailedPrecondition, match="was begun with another corpus;"):
        build(corpus=Corpus(str(distinct_file), **options), out=unfinished)


def test_a_damaged_shard_is_told_and_not_used(build, tmp_path):
    out = tmp_path / "index"
    with pytest.raises(Interrupted):
        build(out=out, progress=interrupted(1, "write"))
    (loaded,) = out.with_name("index.tmp").glob("scan-*.npz")
    data = bytearray(loaded.read_bytes())
    data[len(data) // 2] ^= 1
    loaded.write_bytes(data)
    with pytest.raises(
        FailedPrecondition, match=r"the finished shard .*scan-.* is damaged .*; remove it and start again"
    ):
        build(out=out)
    loaded.unlink()
    assert build(out=out).sha256 == build().sha256


HOLDS = """
    import pathlib, sys
    from polysem.proto.work import shards

    with shards.sole_worker(pathlib.Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.read()
"""


def test_a_second_process_is_kept_out_until_the_first_is_gone(build, tmp_path):
    (tmp_path / "index.tmp").mkdir()
    command = [sys.executable, "-c", textwrap.dedent(HOLDS), tmp_path / "index.tmp"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(FailedPrecondition, match=r"another process is working in .*index\.tmp'; wait for it"):
            build(out=tmp_path / "index")
        other.kill()
    assert build(out=tmp_path / "index").info.n_documents == 31  # its lock fell with it


# ---- Places


@pytest.mark.parametrize("place", ["file/index", "file/deeper/index", "/proc/index"])
def test_a_place_that_cannot_be_written_is_told(build, tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(FailedPrecondition, match=r"cannot write to '.*index\.tmp': "):
        build(out=tmp_path / place)


def test_a_file_in_the_place_of_the_index_is_left_alone(build, tmp_path):
    (tmp_path / "index").write_text("notes")
    with pytest.raises(FailedPrecondition, match="exists already"):
        build(out=tmp_path / "index")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["notes"]


def test_missing_parents_are_made(build, tmp_path):
    assert build(out=tmp_path / "a" / "b" / "index").folder == tmp_path / "a" / "b" / "index"


@pytest.mark.parametrize(
    ("recipe", "problem"),
    [
        (Recipe(context_length=0, bos=False), r"context_length is 0; .* reads 1 to 32 tokens at once"),
        (Recipe(context_length=-5), "context_length is -5"),
        (Recipe(Selection(rule="best")), "unknown selection 'best': choose first, top or quantile"),
        (Recipe(Selection(min_activation_fraction=float("inf"))), "min_activation_fraction is inf; give more than 0"),
        (Recipe(Selection(min_activation_fraction=-0.5)), r"min_activation_fraction is -0\.5; give more than 0"),
        (Recipe(Selection(max_examples=100_001)), "max_examples is 100001; give 1 to 100000"),
    ],
)
def test_a_recipe_beyond_the_limits_is_refused_before_anything_is_written(build, tmp_path, recipe, problem):
    with pytest.raises(InvalidArgument, match=problem):
        build(recipe, out=tmp_path / "index")
    assert list(tmp_path.iterdir()) == []
