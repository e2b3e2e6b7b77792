"""What the scripts of this folder measure, beside what it should be."""

import os
from typing import NamedTuple

import numpy as np


class Figure(NamedTuple):
    name: str
    target: str
    measured: str
    met: bool | None  # None: there is no target


def show(figures):
    """A table, and how busy the machine was."""
    print("\n| figure | target | measured | met |\n|---|---|---|---|")
    for name, target, measured, met in figures:
        print(f"| {name} | {target} | {measured} | {'' if met is None else 'yes' if met else 'no'} |")
    print(f"\nload of the machine's {os.cpu_count()} cores over the last minute: {os.getloadavg()[0]:.1f}", flush=True)


def jain(shares):
    """Jain's index of fairness: 1 where all have the same, 1/n where one has all."""
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


def ms(seconds, percent):
    """A percentile, in milliseconds."""
    return float(np.percentile(seconds, percent)) * 1e3
