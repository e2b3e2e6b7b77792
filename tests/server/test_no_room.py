"""Exports, imports and published folders on a full disk: one sentence, nothing half, and the same call goes on."""

import pytest

from polysem.client.exporting import writing
from polysem.client.exporting.formats import FORMATS
from polysem.proto.errors import FailedPrecondition
from polysem.server.importing import building, delphi, names
from polysem.server.publishing import folder

SOME = ("0.0-9", "1.5", "L1N7")
ROOMS = (0, 4, 8, 16, 40, 100, 250, 600, 1500, 4000)  # KiB left free, until there is enough


def files(place):
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def made_at_last(disk, out, make):
    """Make `out` with more and more room. Each failure is a sentence, and leaves neither it nor another name."""
    said = []
    for room in ROOMS:
        disk.fill()
        filler = disk.folder / "filler"
        with filler.open("r+b") as file:
            file.truncate(filler.stat().st_size - (room << 10))
        try:
            make()
        except FailedPrecondition as error:
            said.append((error.message, out.exists()))
        else:
            break
    assert len(said) > 2
    for sentence, there in said:
        assert "No space left on device" in sentence or "disk is full" in sentence  # the second is SQLite's
        assert "\n" not in sentence
        assert not there
    assert {path.name for path in disk.folder.iterdir()} - {f"{out.name}.names.jsonl"} == {out.name, "filler"}


@pytest.mark.parametrize("format_", FORMATS)
def test_an_export(small_disk, polysem_client, tmp_path, monkeypatch, format_):
    monkeypatch.setattr(writing, "PIECE", 5)
    writing.export(polysem_client, format_, tmp_path / "want", *SOME)
    out = small_disk.folder / "out"
    made_at_last(small_disk, out, lambda: writing.export(polysem_client, format_, out, *SOME))
    assert files(out) == files(tmp_path / "want")


def test_a_published_index(small_disk, index_folder, tmp_path):
    folder.prepare(index_folder, tmp_path / "want", "MIT")
    out = small_disk.folder / "out"
    made_at_last(small_disk, out, lambda: folder.prepare(index_folder, out, "MIT"))
    assert files(out) == files(tmp_path / "want")


def test_an_import_with_its_names(small_disk, polysem_client, small_model, tmp_path):
    writing.export(polysem_client, "delphi", tmp_path / "export", *SOME, whole_context=True)
    found = delphi.read(tmp_path / "export", small_model)

    def make(out):
        kept = out.with_name(f"{out.name}.names.jsonl")
        names.check_free(kept, out)
        building.build(
            *(small_model, found, "export", "delphi", out, 100, lambda stage, n, total: None),
            lambda index: names.write(found.explanations, index, kept),
        )
        return kept.read_bytes(), files(out)

    want = make(tmp_path / "out")
    out = small_disk.folder / "out"
    made_at_last(small_disk, out, lambda: make(out))
    assert ((small_disk.folder / "out.names.jsonl").read_bytes(), files(out)) == want
    with pytest.raises(FailedPrecondition, match=r"out\.names\.jsonl' exists already; move it"):
        make(out)
