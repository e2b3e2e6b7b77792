"""Measures how long a search takes: 400,000 made-up clusters, and the demo's index through server and client.

python tests/benchmarks/search.py [--clusters 400000] [--repeats 3] [--demo]

Made-up texts: eight examples a cluster of 30 words each, drawn by Zipf's law from 50,000 words; the hundred commonest
are in nearly every cluster. Queries are drawn alike: words and pairs of all ranks, phrases that are there and such that
are not, key tokens, filters, pages further on. Target: 300 ms for 95 of 100. The baseline is a scan of the same texts
by SQLite, without an index of words.
"""

import argparse
import sqlite3
import tempfile
import time
from pathlib import Path

import numpy as np

from polysem.client import Client
from polysem.proto.questions.search import FOUND_BY
from polysem.server.searching.file import Document, Filters, SearchFile, Writer
from polysem.server.searching.words import parse

N_WORDS, N_TEXTS, LENGTH = 50_000, 8, 30


def word(rank):
    """A made-up word of letters, the commonest the shortest."""
    text = ""
    while rank >= 0:
        text, rank = chr(97 + rank % 26) + text, rank // 26 - 1
    return text


VOCABULARY = [word(rank) for rank in range(N_WORDS)]


def ranks(rng, shape):
    """Ranks of words by Zipf's law."""
    weights = 1 / np.arange(1, N_WORDS + 1)
    return np.searchsorted(np.cumsum(weights) / weights.sum(), rng.random(shape)).clip(0, N_WORDS - 1)


def documents(n, rng):
    for first in range(0, n, 10_000):
        texts = ranks(rng, (min(10_000, n - first), N_TEXTS, LENGTH))
        for i, of in enumerate(texts):
            number = first + i
            lines = [" ".join(VOCABULARY[rank] for rank in row) for row in of]
            held = np.bincount(np.concatenate([np.unique(row) for row in of]))
            often = " ".join(VOCABULARY[rank] for rank in np.flatnonzero(2 * held >= N_TEXTS))
            key = VOCABULARY[of[0, 0]]
            yield Document(
                number // 32_768, number // 11 % 3072, number % 11, number % 11, N_TEXTS, 0, range(N_TEXTS), f"`{key}`",
                {key: 0.75, VOCABULARY[of[1, 0]]: 0.25}, key, often, " \n ".join(lines),
            )  # fmt: skip


def queries(rng):
    """Kinds of questions, each with some of them: query, what is searched, and filters."""
    one, other = (lambda: VOCABULARY[ranks(rng, ())], lambda: VOCABULARY[int(rng.integers(N_WORDS))])
    common = VOCABULARY[:100]

    def phrase(n):
        return f'"{" ".join(rng.choice(common, n))}"'

    return {
        "one of the 100 commonest words": [(w, FOUND_BY, Filters()) for w in common],
        "a word by Zipf's law": [(one(), FOUND_BY, Filters()) for _ in range(100)],
        "any word": [(other(), FOUND_BY, Filters()) for _ in range(100)],
        "a word in texts alone": [(one(), ("text",), Filters()) for _ in range(100)],
        "two words by Zipf's law": [(f"{one()} {one()}", FOUND_BY, Filters()) for _ in range(100)],
        "four common words": [(" ".join(rng.choice(common, 4)), FOUND_BY, Filters()) for _ in range(100)],
        "a phrase of two common words": [(phrase(2), FOUND_BY, Filters()) for _ in range(100)],
        "a phrase of three common words": [(phrase(3), FOUND_BY, Filters()) for _ in range(100)],
        "in a layer": [(one(), FOUND_BY, Filters(int(rng.integers(12)), 2)) for _ in range(100)],
        "of a size that none has": [(one(), FOUND_BY, Filters(None, 20)) for _ in range(100)],
    }  # fmt: skip


def said(name, times, note=""):
    ms = 1e3 * np.array(times)
    print(f"{name:34} {np.median(ms):8.1f} {np.quantile(ms, 0.95):8.1f} {ms.max():8.1f}  {note}")


def of_made_up_clusters(n, repeats):
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "search-positive.sqlite"
        begin = time.perf_counter()
        writer = Writer(path, "a" * 64, "positive")
        writer.add(documents(n, rng))
        writer.finish()
        print(f"{n:,} clusters: {path.stat().st_size / 1e6:,.0f} MB, written in {time.perf_counter() - begin:.0f} s")
        file = SearchFile(path)
        print(f"{'ms of a page of 20 with its counts':34} {'median':>8} {'p95':>8} {'most':>8}")
        every = []
        for name, asked in queries(rng).items():
            times, n_stopped = [], 0
            for query, by, filters in asked * repeats:
                begin = time.perf_counter()
                _, stopped = file.find(parse(query), by, filters, 21)
                file.counts(parse(query), by, filters)
                times.append(time.perf_counter() - begin)
                n_stopped += stopped
            every += times
            said(name, times, f"{n_stopped} of {len(times)} stopped" if n_stopped else "")
        said("all", every)
        times = []
        for query in VOCABULARY[:100]:
            after = ""
            for _ in range(3):
                begin = time.perf_counter()
                rows, _ = file.find(parse(query), FOUND_BY, Filters(), 21, after)
                times.append(time.perf_counter() - begin)
                after = rows[-1].at
        said("pages 1 to 3, without counts", times)
        file.close()


def baseline(n):
    """A scan of the same texts."""
    with tempfile.TemporaryDirectory() as folder, sqlite3.connect(Path(folder) / "texts.sqlite") as db:
        db.execute("CREATE TABLE texts (text TEXT)")
        db.executemany(
            "INSERT INTO texts VALUES (?)", ((f" {d.text} ",) for d in documents(n, np.random.default_rng(0)))
        )
        times = []
        for query in VOCABULARY[5000:5010]:
            begin = time.perf_counter()
            db.execute("SELECT rowid FROM texts WHERE instr(text, ?) LIMIT 21", [f" {query} "]).fetchall()
            times.append(time.perf_counter() - begin)
        said("baseline: rare words by a scan", times)


def of_the_demo(repeats):
    import polysem.server

    with polysem.server.local(device="cpu") as local, Client(local.target) as client:
        begin = time.perf_counter()
        client.search("the")
        print(f"the demo's first search, which makes the file: {time.perf_counter() - begin:.0f} s")
        for query in ("the", "import", '"of the"', "return self", ","):
            times = []
            for _ in range(20 * repeats):
                begin = time.perf_counter()
                found = client.search(query)
                times.append(time.perf_counter() - begin)
            said(f"demo: {query}", times, str(found.counts))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clusters", type=int, default=400_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--demo", action="store_true", help="the demo alone")
    given = parser.parse_args()
    if not given.demo:
        of_made_up_clusters(given.clusters, given.repeats)
        baseline(min(given.clusters, 100_000))
    of_the_demo(given.repeats)
