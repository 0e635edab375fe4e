"""The medians as a picture: one panel for each table."""

from __future__ import annotations

import importlib
import pathlib
from collections.abc import Sequence
from typing import Any

from .scenarios import Outcome, Scenario

COLUMNS = 3
OURS, OTHERS = "tab:blue", "silver"


class NoPlot(Exception):
    """No picture can be drawn; the message says what to do."""


def require_matplotlib() -> Any:
    try:
        matplotlib: Any = importlib.import_module("matplotlib")
        matplotlib.use("Agg")  # into a file: no display is asked for
        return importlib.import_module("matplotlib.pyplot")
    except ImportError as error:
        raise NoPlot("pictures need matplotlib, which the extra [benchmark] brings: pip install matplotlib") from error


def draw(results: Sequence[tuple[Scenario, list[Outcome]]], caption: str, target: pathlib.Path) -> None:
    pyplot = require_matplotlib()
    columns = COLUMNS if len(results) >= COLUMNS else 1  # a few are readable where there is little room
    rows = -(-len(results) // columns)
    figure, grid = pyplot.subplots(rows, columns, figsize=(6.5 * columns, 3.2 * rows), squeeze=False)
    panels = list(grid.flat)
    for panel, (scenario, outcomes) in zip(panels, results, strict=False):
        _draw_panel(panel, scenario, outcomes)
    for panel in panels[len(results) :]:
        panel.set_axis_off()
    figure.suptitle(caption, fontsize=9, wrap=True)
    figure.tight_layout()
    figure.savefig(target, dpi=110)
    pyplot.close(figure)


def _draw_panel(panel: Any, scenario: Scenario, outcomes: Sequence[Outcome]) -> None:
    column = scenario.columns[0]
    names = [outcome.contestant for outcome in outcomes]
    medians = [outcome.median(column.key) for outcome in outcomes]
    colours = [OURS if name.startswith("ours") else OTHERS for name in names]
    bars = panel.barh(names, [median or 0.0 for median in medians], color=colours)
    labels = ["n/a" if median is None else f"{median:,.{column.digits}f}" for median in medians]
    panel.bar_label(bars, labels, padding=3, fontsize=7)
    panel.invert_yaxis()  # the first on top, as in the table
    panel.margins(x=0.18)
    panel.tick_params(labelsize=7)
    better = "more" if scenario.higher_is_better else "less"
    panel.set_title(f"{scenario.title}\n{column.heading}, {better} is better", fontsize=8)
