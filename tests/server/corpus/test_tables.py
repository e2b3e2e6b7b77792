"""Corpora in tables: Parquet files, and data sets in the format of Hugging Face's library."""

import warnings

import pyarrow
import pytest
from pyarrow import parquet

from polysem.proto.errors import BadCorpus
from polysem.server.corpus import documents
from polysem.server.corpus.documents import Corpus
from polysem.server.indexing import builder
from polysem.server.indexing.builder import Recipe

TEXTS = [f"text {i} é 日本" for i in range(700)]


def read(id_, **options):
    return [tuple(document) for document in Corpus(str(id_), **options).documents()]


@pytest.fixture
def write_parquet(tmp_path):
    """A function that writes columns to a Parquet file."""

    def write(**columns):
        path = tmp_path / "c.parquet"
        parquet.write_table(pyarrow.table(columns), path, row_group_size=100)
        return path

    return write


# ---- Parquet


def test_rows_are_documents_named_by_id(write_parquet):
    path = write_parquet(id=[f"d{i}" for i in range(700)], other=list(range(700)), text=TEXTS)
    assert read(path) == [(f"d{i}", text) for i, text in enumerate(TEXTS)]
    assert read(path, max_documents=300) == [(f"d{i}", text) for i, text in enumerate(TEXTS[:300])]


def test_rows_without_id_are_named_by_number_and_the_field_by_choice(write_parquet):
    assert read(write_parquet(body=["a", "b"]), text_field="body") == [("1", "a"), ("2", "b")]


def test_a_row_without_text_is_named_or_skipped(write_parquet):
    path = write_parquet(text=["a", None, "", "b"])
    with pytest.raises(BadCorpus, match=r"row 2 of .* has no text in its field 'text'"):
        read(path)
    assert [text for _, text in read(path, skip_bad=True)] == ["a", "b"]


def test_a_text_beyond_the_limit_is_no_document(write_parquet, monkeypatch):
    monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", 10)
    with pytest.raises(BadCorpus, match=r"row 1 of .* is larger than"):
        read(write_parquet(text=["x" * 11]))


def test_an_absent_column_is_told_with_those_there_are(write_parquet):
    with pytest.raises(BadCorpus, match="has no column 'text'; it has body, n"):
        read(write_parquet(body=["a"], n=[1]))


def test_a_damaged_file_is_told(tmp_path, write_parquet):
    whole = write_parquet(text=TEXTS).read_bytes()
    for data in (b"", b"PAR1", whole[: len(whole) // 2]):
        (tmp_path / "d.parquet").write_bytes(data)
        with pytest.raises(BadCorpus, match=r"cannot read .*d\.parquet"):
            read(tmp_path / "d.parquet")


# ---- Hugging Face's library


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import datasets

    return datasets


@pytest.fixture
def saved(datasets, tmp_path):
    """A data set of two splits, as the library saves it."""
    folder = tmp_path / "saved"
    of = datasets.Dataset.from_dict
    splits = {"train": of({"text": TEXTS[:5], "id": list("abcde")}), "test": of({"text": TEXTS[5:7]})}
    datasets.DatasetDict(splits).save_to_disk(folder)
    return folder


@pytest.fixture
def repository(datasets, tmp_path):
    """A folder as the hub keeps them: Parquet files by split, two configurations in its card."""
    folder = tmp_path / "repository"
    (folder / "plain").mkdir(parents=True)
    (folder / "other").mkdir()
    datasets.Dataset.from_dict({"text": TEXTS[:300]}).to_parquet(folder / "plain" / "train.parquet")
    datasets.Dataset.from_dict({"text": TEXTS[300:310]}).to_parquet(folder / "plain" / "test.parquet")
    datasets.Dataset.from_dict({"text": TEXTS[310:313]}).to_parquet(folder / "other" / "train.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: plain\n  default: true\n  data_files:\n"
        "  - split: train\n    path: plain/train.parquet\n  - split: test\n    path: plain/test.parquet\n"
        "- config_name: other\n  data_files:\n  - split: train\n    path: other/train.parquet\n---\n"
    )
    return folder


def test_a_saved_data_set_by_split(saved):
    assert read(f"hf:{saved}") == list(zip("abcde", TEXTS[:5], strict=True))
    assert read(f"hf:{saved}::test") == [("1", TEXTS[5]), ("2", TEXTS[6])]


def test_a_repository_by_configuration_and_split(repository):
    assert [text for _, text in read(f"hf:{repository}")] == TEXTS[:300]
    assert [text for _, text in read(f"hf:{repository}:plain:test")] == TEXTS[300:310]
    assert [text for _, text in read(f"hf:{repository}:other")] == TEXTS[310:313]
    assert [text for _, text in read(f"hf:{repository}", max_documents=7)] == TEXTS[:7]


def test_what_is_not_there_is_told_in_one_sentence(repository, saved):
    for id_ in (f"hf:{repository}:absent", f"hf:{repository}::absent", f"hf:{saved}::absent", "hf:nobody/nothing"):
        with pytest.raises(BadCorpus, match="cannot read the data set 'hf:") as caught:
            read(id_)
        assert "\n" not in str(caught.value)


def test_files_with_other_columns_are_told_with_them(tmp_path):
    for name, line in (("a", '{"text": "one"}'), ("b", '{"text": "two", "mood": 1}')):
        (tmp_path / f"{name}.jsonl").write_text(f"{line}\n")
    with pytest.raises(BadCorpus, match=r"Couldn't cast text: string mood: int64.* column names don't match") as raised:
        read(f"hf:{tmp_path}")
    assert "\n" not in raised.value.message


def test_an_index_of_a_data_set_names_it(small_model, repository, tmp_path):
    id_ = f"hf:{repository}::test"
    index = builder.build(small_model, Corpus(id_), tmp_path / "i", Recipe())
    assert index.info.corpus_id == id_
    assert index.info.n_contexts == 10


def test_a_corpus_with_fewer_documents_than_the_bound_is_read_whole(small_model, write_parquet, tmp_path):
    path = str(write_parquet(text=TEXTS[:4]))
    assert builder.build(small_model, Corpus(path, max_documents=9), tmp_path / "i", Recipe()).info.n_contexts == 4
