"""Draw the pictures of README and docs from the demo's index: `make picture`.

The explorer's are screenshots of Debian's Chromium, driven by Playwright.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from playwright.sync_api import sync_playwright

import polysem.server
from polysem.client import Client
from polysem.client.drawing import figures

OUT = Path(__file__).parent / "pictures"
NEURON, RARE = "2.185", "1.3"
TEXT = '''@property
def area(self):
    """Area of the rectangle, in square metres."""
    import math
    return self.width * self.height
'''
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]


def main() -> None:
    OUT.mkdir(exist_ok=True)
    with polysem.server.local() as client:
        draw(client)
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
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
                for name, path in {
                    "explorer": f"neuron/{NEURON}",
                    "overview": "",
                    "your-text": f"text?text={quote(TEXT)}",
                }.items():
                    shoot(browser, address + path, OUT / f"{name}.png")
                browser.close()
        finally:
            explorer.terminate()
            explorer.wait()


def shoot(browser: Any, address: str, out: Path) -> None:
    page = browser.new_page(viewport={"width": 1180, "height": 800})
    page.set_default_timeout(120_000)  # the first overview clusters the whole model
    page.goto(address, timeout=120_000)
    page.locator(".ps-card, .row, .piece").first.wait_for()
    page.screenshot(path=out)
    page.close()


def draw(client: Client) -> None:
    neuron, rare = client.cluster(NEURON, RARE)
    for name, figure in {
        "dendrogram": neuron.plot_dendrogram(max_per_cluster=3),
        "behaviours": figures.plot_behaviours(rare, rare.examples),
        "comparison": neuron.plot_compare(),
    }.items():
        figure.savefig(OUT / f"{name}.png", dpi=130, bbox_inches="tight", metadata={"Software": None})


if __name__ == "__main__":
    main()
