"""Neurons in a terminal, as rich renderables: `console.print(neuron_panel(neuron, neuron.examples))`.

Texts of a corpus are untrusted: they become Text objects, never markup, and hold no control characters.
Without colour (a pipe, NO_COLOR) the key token stands in «…».
"""

import os

from rich.console import Console

from polysem.client.terminal.ablation import AblationTable
from polysem.client.terminal.answers import ImportanceText, NamedClusters, SimilarClusters, explanation
from polysem.client.terminal.comparison import comparison
from polysem.client.terminal.logit_effects import LogitEffectsPanel, logit_effects_table
from polysem.client.terminal.neuron import against_chance, neuron_panel
from polysem.client.terminal.server import server_info
from polysem.client.terminal.summary import summary
from polysem.client.terminal.tables import StatisticsPanel, listing, metrics_table, statistics_table
from polysem.client.terminal.texts import ExampleText, example_lines

USUAL_WIDTH = 120
LEAST_WIDTH, MOST_WIDTH = 20, 1000

__all__ = [
    "AblationTable",
    "ExampleText",
    "ImportanceText",
    "LogitEffectsPanel",
    "NamedClusters",
    "SimilarClusters",
    "StatisticsPanel",
    "against_chance",
    "comparison",
    "console",
    "example_lines",
    "explanation",
    "listing",
    "logit_effects_table",
    "metrics_table",
    "neuron_panel",
    "server_info",
    "statistics_table",
    "summary",
]


def console(record: bool = False) -> Console:
    """Standard output: with colour in a terminal that has it, plain in a pipe. 120 columns wide where none is known,
    and as wide as can be read where $COLUMNS says more or less.
    """
    sized = Console(record=record, highlight=False)
    is_known = sized.width > 0 and (sized.is_terminal or "COLUMNS" in os.environ)
    width = min(max(sized.width, LEAST_WIDTH), MOST_WIDTH) if is_known else USUAL_WIDTH
    return sized if width == sized.width else Console(record=record, highlight=False, width=width)
