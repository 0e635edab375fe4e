"""What a client costs as there are more of them: round trips and latency over the number of clients, as a picture.

Made from what `--json` writes, of the scenarios of small round trips.
"""

from __future__ import annotations

import json
import pathlib
import re
import statistics
from collections.abc import Mapping
from typing import Any

from .plot import NoPlot, require_matplotlib

SCENARIO = re.compile(r"echo-(\d+)x64B")
CONTESTANTS = {  # and how they are drawn: ours in colours, the others beside them
    "ours-callback": ("tab:blue", "-"),
    "ours-pool": ("tab:red", "-"),
    "ours-polled": ("tab:cyan", "-"),
    "ours-pool-polled": ("tab:orange", "-"),
    "bare-thread": ("black", "--"),
    "asyncio": ("tab:gray", "--"),
    "uvloop": ("tab:green", "--"),
}
PANELS = {"per_second": "round trips/s, more is better", "p99_us": "p99 in µs, less is better"}
Line = list[tuple[int, float]]  # clients, figure


def read(source: pathlib.Path) -> dict[str, Any]:
    """What a run with `--json` has written. Raises NoPlot if it is nothing of the kind."""
    try:
        document = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NoPlot(f"{source} cannot be read: {error}") from error
    if not isinstance(document, dict) or not {"machine", "settings", "scenarios"} <= document.keys():
        raise NoPlot(f"{source} was not written by --json")
    return document


def lines(document: Mapping[str, Any], key: str) -> dict[str, Line]:
    """Of each contestant, the medians of one figure over the number of clients."""
    found: dict[str, Line] = {name: [] for name in CONTESTANTS}
    for scenario in document["scenarios"]:
        if matched := SCENARIO.fullmatch(scenario["name"]):
            for result in scenario["results"]:
                figures = [each[key] for each in result["rounds"] if each and key in each]
                if figures and result["contestant"] in found:
                    found[result["contestant"]].append((int(matched[1]), statistics.median(figures)))
    return {name: sorted(line) for name, line in found.items() if line}


def draw(document: Mapping[str, Any], caption: str, target: pathlib.Path) -> None:
    """Raises NoPlot where there is nothing to draw, or nothing to draw with."""
    pyplot = require_matplotlib()
    if not lines(document, "per_second"):
        raise NoPlot("no round trips of 64 B were measured: --growth is made from the scenarios echo-…x64B")
    figure, panels = pyplot.subplots(1, len(PANELS), figsize=(7.0 * len(PANELS), 5.0))
    for panel, (key, title) in zip(panels, PANELS.items(), strict=True):
        _draw_panel(panel, lines(document, key), title)
    panels[0].legend(fontsize=8)
    figure.suptitle(caption, fontsize=8, wrap=True)
    figure.tight_layout()
    figure.savefig(target, dpi=110)
    pyplot.close(figure)


def _draw_panel(panel: Any, shown: Mapping[str, Line], title: str) -> None:
    for name, line in shown.items():
        colour, style = CONTESTANTS[name]
        clients, figures = zip(*line, strict=True)
        panel.plot(clients, figures, style, color=colour, marker="o", markersize=4, label=name)
    counts = sorted({clients for line in shown.values() for clients, _ in line})
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xticks(counts, [f"{count:,}" for count in counts])
    panel.set_xticks([], minor=True)
    panel.set_xlabel("clients", fontsize=8)
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.3, which="both")
    panel.set_title(f"64 B: {title}", fontsize=9)
