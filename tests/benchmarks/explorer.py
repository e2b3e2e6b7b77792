"""How long the explorer's pages take in Debian's Chromium: first paint, and a cut of the tree.

python tests/benchmarks/explorer.py [--repeats 10] [--index FOLDER]

Over the demo's index, or one of yours, all on this machine: server, explorer and browser share its cores. First paint
is the browser's own `first-contentful-paint`, counted from the navigation. A cut is from the question to the painted
frame's start: the script's time to cut, paint the tree and fill the cards, then one forced layout. Trees of 1,000
examples are made from random points, with texts of 31 tokens each.

What a slow first paint waits for is the browser: the page is there 30 to 150 ms after it was asked for, even on two
busy cores; a new browser then starts a process and fetches five files, which browsers keep from the first page on.
"""

import argparse
import shutil
import subprocess
import sys
from typing import Any

import given
import numpy as np
from playwright.sync_api import sync_playwright
from scipy.cluster.hierarchy import linkage

import polysem.server
from polysem.client.drawing import browser as drawing

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
CUTS = """([data, thresholds]) => {
  const host = document.body.appendChild(document.createElement("div"));
  const view = Polysem.show(host, data);
  return thresholds.map((threshold) => {
    const start = performance.now();
    view.cut(threshold);
    host.getBoundingClientRect(); // layout
    return performance.now() - start;
  });
}"""

DRAWN = "() => performance.getEntriesByName('drawn')[0]?.startTime"
NAMED = """() => {  // from the rows to the name of the first one, in place of what it fires at
  const [drawn] = performance.getEntriesByName("drawn"), name = document.querySelector(".row .named b");
  return drawn && name && !name.textContent.startsWith("at ") && performance.now() - drawn.startTime;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--index", nargs="*", default=[], help="folder of an index")
    asked = parser.parse_args()
    repeats = asked.repeats
    with polysem.server.local(*asked.index) as client, sync_playwright() as playwright:
        command = [
            sys.executable,
            "-m",
            "polysem.client.commands.cli",
            "explore",
            "--server",
            client.target,
            "--port",
            "0",
        ]
        explorer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert explorer.stdout is not None
        address = explorer.stdout.readline().split()[0]
        try:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
            neurons = [neuron.id for neuron in client.neurons(sort_by="-n_examples", limit=repeats)]
            addresses = [f"{address}neuron/{i}" for i in neurons]
            tell("first paint of a neuron, in a new browser", [first_paint(new(browser), one) for one in addresses])
            page = new(browser)
            tell("first paint of a neuron, from another's page", [first_paint(page, one) for one in addresses])
            tell("until its tree and cards stand there", [after(page, one, DRAWN) for one in addresses])
            n = client.neurons(limit=1).n_matching
            tell(f"first paint of the overview, 50 of {n:,}", [first_paint(page, address) for _ in range(repeats)])
            tell("until its field and 50 rows stand there", [after(page, address, DRAWN) for _ in range(repeats)])
            cuts = [f"{address}?cut={0.4 + i / 1000:g}" for i in range(repeats)]  # so that no names are remembered
            tell("then until the first row is named", [after(page, one, NAMED) for one in cuts])
            rng = np.random.default_rng(0)
            for n in (100, 1000):
                page = new(browser)
                page.add_script_tag(content=drawing.script())
                page.add_style_tag(content=drawing.style())
                thresholds = rng.uniform(0.1, 1.1, 20 * repeats).tolist()
                tell(f"a cut at {n:,} examples", page.evaluate(CUTS, [tree(n, rng), thresholds]))
            browser.close()
        finally:
            explorer.terminate()
            explorer.wait()


def new(browser: Any) -> Any:
    """A page that knows no other: a context of its own, with an empty cache."""
    return browser.new_page(viewport={"width": 1280, "height": 900})


def first_paint(page: Any, address: str) -> float:
    page.goto(address)
    page.locator(".ps-card, .row").first.wait_for()
    page.wait_for_function("() => performance.getEntriesByName('first-contentful-paint').length")
    return float(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))


def after(page: Any, address: str, script: str) -> float:
    """The milliseconds that a script gives as soon as it gives some; a page that comes in grey is waited for."""
    page.goto(address)
    return float(page.wait_for_function(script).json_value())


def tree(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """A neuron of n examples as the page gets it."""
    from polysem.client.cutting import Tree
    from polysem.client.drawing.dendrogram import arrange

    z = linkage(rng.normal(size=(n, 6)) + rng.integers(0, 3, (n, 1)), "average", metric="cosine")
    known = Tree(z[:, :2].astype(np.int32), z[:, 2], np.zeros(n - 1, np.int32), z[:, 2])
    tokens = [f" word{i}" for i in range(31)]
    return {
        "neuron": "0.0",
        "n": n,
        "distance_threshold": 0.5,
        "merges": known.merges.tolist(),
        "heights": known.heights.tolist(),
        "centrals": known.centrals.tolist(),
        "mean_distances": known.mean_distances.tolist(),
        "leaves": arrange(z, np.arange(n, dtype=np.int32), -1.0).leaves.tolist(),
        "rare": {"least_examples": 20, "common_share": 0.9, "least_minority": 3},
        "baselines": {"null_n_clusters": None},
        "examples": [
            {"document": f"d{i}", "position": 20, "key_name": f"key{i % 7}",
             "activation": 1.0, "key": 20, "activations": rng.random(31).tolist(),
             "tokens": [*tokens[:20], f" key{i}", *tokens[21:]]}
            for i in range(n)
        ],
    }  # fmt: skip


def tell(what: str, ms: list[float]) -> None:
    print(f"{what:45} median {np.median(ms):7.1f} ms   largest {np.max(ms):7.1f} ms   of {len(ms)}", flush=True)


if __name__ == "__main__":
    with given.in_words():
        main()
