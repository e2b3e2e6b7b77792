"""The audit log is bounded: by size, by age, and by what anybody without a key can make it write."""

import asyncio
import json
import logging
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polysem.client import Client
from polysem.server import settings
from polysem.server.serving import audit, keys, logs
from polysem.server.serving.books import Books


def written(folder):
    """All lines, oldest first."""
    closed = sorted(folder.glob("audit-*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    return [line for path in (*closed, folder / "audit.jsonl") for line in path.read_text().splitlines()]


def log_to(folder, max_bytes=1 << 20, max_days=1.0, books=None):
    file = audit.AuditFile(folder / "audit.jsonl", books or Books(), max_bytes, max_days)
    file.open()
    return file


def write(file, *lines):
    for line in lines:
        file.emit(logging.LogRecord("audit", logging.INFO, "", 0, line, (), None))


# ---- Files


def test_a_file_that_is_large_is_closed_and_nothing_is_lost(tmp_path):
    file = log_to(tmp_path, 8000)
    lines = [f"{i:04d} {'x' * 94}" for i in range(50)]  # 100 bytes each: ten a file
    write(file, *lines)
    assert written(tmp_path) == lines
    assert len(list(tmp_path.iterdir())) == 5
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in tmp_path.iterdir())


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=60), st.integers(65_536, 80_000))
def test_all_files_together_keep_their_bound_and_hold_the_latest_lines(tmp_path_factory, lengths, max_bytes):
    folder = tmp_path_factory.mktemp("audit")
    file = log_to(folder, max_bytes)
    lines = [f"{i} ".ljust(length, "x") for i, length in enumerate(lengths * 2)]
    write(file, *lines)
    kept = written(folder)
    assert kept == lines[len(lines) - len(kept) :]
    assert sum(path.stat().st_size for path in folder.iterdir()) <= max_bytes + 3001
    assert len(kept) == len(lines) or sum(map(len, kept)) >= max_bytes * 0.6


def test_a_file_of_another_day_is_closed_and_an_old_one_removed(tmp_path):
    file = log_to(tmp_path, max_days=2.5)
    for days in (4, 3, 2, 1):
        write(file, f"{days} days ago")
        then = time.time() - days * 86_400
        os.utime(tmp_path / "audit.jsonl", (then, then))
    write(file, "today", "today, too")
    assert written(tmp_path) == ["2 days ago", "1 days ago", "today", "today, too"]


def test_a_file_that_was_moved_away_is_made_anew(tmp_path):
    file = log_to(tmp_path)
    write(file, "one")
    (tmp_path / "audit.jsonl").rename(tmp_path / "moved")
    write(file, "two")
    assert (tmp_path / "audit.jsonl").read_text() == "two\n"
    assert (tmp_path / "moved").read_text() == "one\n"


def test_what_a_full_disk_did_not_take_is_written_later_and_no_line_in_part(small_disk):
    books = Books()
    file = log_to(small_disk.folder, books=books)
    write(file, "before")
    small_disk.fill()
    lines = [f"{i} {'x' * 1000}" for i in range(20)]
    write(file, *lines)
    assert "audit.jsonl" in books.unwritten_s()
    assert all(line in ["before", *lines] for line in written(small_disk.folder))
    small_disk.free()
    write(file, "after")
    assert written(small_disk.folder) == ["before", *lines, "after"]
    assert books.unwritten_s() == {}


def test_of_too_many_lines_that_cannot_be_written_the_latest_stay(tmp_path, monkeypatch):
    file = log_to(tmp_path)
    monkeypatch.setattr(file, "_opened", lambda: os.open(tmp_path, os.O_WRONLY))  # a folder
    write(file, *(str(i) for i in range(audit.MAX_WAITING + 5)))
    monkeypatch.undo()
    write(file, "last")
    assert written(tmp_path) == [str(i) for i in range(6, audit.MAX_WAITING + 5)] + ["last"]


# ---- Refusals


def counted(*peers, monkeypatch, counted_s=60.0):
    found = []
    monkeypatch.setattr(audit, "COUNTED_S", counted_s)
    monkeypatch.setattr(audit.audit, "info", lambda text, extra: found.append(extra["fields"]))

    async def main():
        refusals = audit.Refusals()
        for peer in peers:
            refusals.add(peer)
        await asyncio.sleep(2 * counted_s if counted_s < 1 else 0)
        before = len(found)
        refusals.write()
        return before

    before = asyncio.run(main())
    return {fields["address"]: fields["refusals"] for fields in found}, before


def test_refusals_are_counted_by_address_and_written_after_a_minute(monkeypatch):
    peers = ["ipv4:10.0.0.1:5", "ipv4:10.0.0.1:6", "ipv6:%5B::1%5D:7", "unix:", "ipv4:10.0.0.1:7"]
    wanted = {"ipv4:10.0.0.1": 3, "ipv6:%5B::1%5D": 1, "unix:": 1}
    assert counted(*peers, monkeypatch=monkeypatch) == (wanted, 0)
    assert counted(*peers, monkeypatch=monkeypatch, counted_s=0.02) == (wanted, 3)


def test_addresses_beyond_a_thousand_are_counted_together(monkeypatch):
    found, _ = counted(*(f"ipv4:10.0.{i // 250}.{i % 250}:1" for i in range(1500)), monkeypatch=monkeypatch)
    assert len(found) == audit.MAX_ADDRESSES + 1
    assert found["others"] == 500


@pytest.mark.usefixtures("own_logging")
def test_a_thousand_refused_calls_are_one_line(served, tmp_path):
    _, token = keys.create(tmp_path, "ada")
    given_ = {"require_keys": True, "state": tmp_path}
    logs.configure(settings.read(**given_))
    with served(**given_) as target:
        with Client(target, token="psm_00000000_wrong") as stranger:
            for _ in range(300):
                with pytest.raises(Exception, match="not one of"):
                    stranger.info()
        with Client(target, token=token) as ada:
            ada.info()
    known, refused = (json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines())
    assert known["code"] == "OK"
    assert refused["refusals"] == 300
    assert "request_id" not in refused
