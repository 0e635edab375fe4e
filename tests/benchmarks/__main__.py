"""Benchmarks of this package, by hand: the test suite runs none of them.

    python -m tests.benchmarks [--only NAME ...] [--seconds S] [--rounds R] [--quick] [--awake]
                               [--json FILE] [--plot FILE.png] [--growth FILE.png] [--from FILE ...]

What is compared: servers built on this package, by callback and by polling, with a thread per client and with
the pool, from one client to 5,000, beside a bare thread per client, what the standard library offers, uvloop
and release 0.4.0 of simplesockets; then clients, bulk transfers, connection rate, the price of being idle, many
clients beside some whose callbacks sleep, a loop that draws frames, remote calls by HPX, and commands of HiSock
beside release 2.0.2 of hisock and python-socketio. `--list` names all of it, and `--only` takes the names, or
beginnings of names, of scenarios and of contestants. `--quick` is for a first look: one short round.
`--plot` draws the medians, `--growth` what a client costs as there are more of them: from what was just measured or,
with `--from`, from what earlier runs wrote with `--json` (of these, too, `--only` picks scenarios).

How: each server runs in a process of its own and the load comes from another one, compiled from `loadgen.c`
where there is a C compiler. In every round everybody has a turn, in another order each time. Shown are
medians over the rounds, and the median of each round's ratio to the baseline; the spread is the distance
between the lowest and the highest round, as a part of the median. Only the loopback interface is used.
Nothing is asserted about time.

On a virtual machine, `--awake` keeps the cores from sleeping between two messages (see awake.py), for else a single
client's round trip is mostly the time in which they wake up.

Left alone, a full run takes about forty minutes. Run it on a quiet machine: other work does not only slow it
down, it also moves both ends of a connection to one core, where a single client's round trip may take a third
of the time. Where the spread is large, believe no ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import platform
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from simplesockets import hotpath

from . import growth, load, plot, scenarios
from .awake import awake_cores
from .scenarios import SCENARIOS, Outcome, Scenario, Settings

Results = list[tuple[Scenario, list[Outcome]]]
FROM = "read what --json wrote, measure nothing"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Compare servers and clients.")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="beginnings of the names of --list")
    parser.add_argument("--list", action="store_true", help="name the scenarios and contestants, and end")
    parser.add_argument("--seconds", type=float, help="of each measurement (default 2)")
    parser.add_argument("--rounds", type=int, help="how often each is measured (default 3)")
    parser.add_argument("--quick", action="store_true", help="half a second, one round, a short bulk transfer")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write all figures of all rounds")
    parser.add_argument("--plot", type=pathlib.Path, metavar="FILE.png", help="draw the medians (needs matplotlib)")
    parser.add_argument("--growth", type=pathlib.Path, metavar="FILE.png", help="draw the figures over the clients")
    parser.add_argument("--from", dest="sources", nargs="+", default=[], type=pathlib.Path, metavar="FILE", help=FROM)
    parser.add_argument("--awake", action="store_true", help="keep the cores from sleeping (Linux)")
    options = parser.parse_args(arguments)
    if options.seconds is not None and not 0.05 <= options.seconds <= 600:
        parser.error("--seconds is from 0.05 to 600")
    if options.rounds is not None and not 1 <= options.rounds <= 100:
        parser.error("--rounds is from 1 to 100")
    if options.sources and not (options.growth or options.plot):
        parser.error("--from is for --growth and --plot: nothing else is made from an earlier run")
    for target in filter(None, (options.json, options.plot, options.growth)):
        if not target.absolute().parent.is_dir():
            parser.error(f"there is no directory for {target}")
    if unknown := [name for name in options.only if not _scenarios(name) and not _contestants(name)]:
        parser.error(f"nothing is called {', '.join(unknown)}: see --list")
    if options.growth and not options.sources and not any(_grows(scenario) for scenario, _ in selection(options.only)):
        parser.error("--growth needs some of the scenarios echo-…x64B")
    return options


def settings_of(options: argparse.Namespace) -> Settings:
    quick = Settings(seconds=0.5, rounds=1, bulk_bytes=64 * scenarios.MIB)
    usual = Settings(seconds=2.0, rounds=3, bulk_bytes=1024 * scenarios.MIB)
    given = {key: getattr(options, key) for key in ("seconds", "rounds") if getattr(options, key) is not None}
    return dataclasses.replace(quick if options.quick else usual, awake=options.awake, **given)


def _scenarios(prefix: str) -> list[Scenario]:
    return [scenario for scenario in SCENARIOS if scenario.name.startswith(prefix)]


def _grows(scenario: Scenario) -> bool:
    return growth.SCENARIO.fullmatch(scenario.name) is not None


def _contestants(prefix: str) -> set[str]:
    return {name for scenario in SCENARIOS for name in scenario.contestants if name.startswith(prefix)}


def selection(only: Sequence[str]) -> list[tuple[Scenario, list[str]]]:
    """The scenarios to run and who takes part; the baseline always does, or there would be no ratio."""
    named = [scenario for prefix in only for scenario in _scenarios(prefix)]
    people = {name for prefix in only for name in _contestants(prefix)} or _contestants("")
    chosen = []
    for scenario in SCENARIOS:
        wanted = not named or scenario in named
        if wanted and not people.isdisjoint(scenario.contestants):
            part = [name for name in scenario.contestants if name in people or name == scenario.baseline]
            chosen.append((scenario, part))
    return chosen


# Output.


def machine() -> dict[str, object]:
    """What the figures depend on, and nothing that names the machine."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": f"{platform.system()} {platform.machine()}",
        "compiled": hotpath.COMPILED,
        "load_generator": load.generator_kind(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def caption(facts: dict[str, object], settings: Settings) -> str:
    return (
        f"{facts['implementation']} {facts['python']}, {facts['system']}, {facts['cores']} cores, "
        f"{'compiled' if facts.get('compiled') else 'all in Python'}, "
        f"load generator in {facts['load_generator']}; "
        f"{settings.rounds} x {settings.seconds:g} s each, medians; "
        f"load average before: {facts['load_average']}"
        + ("; cores kept awake by processes of the lowest priority that spin" if settings.awake else "")
    )


def _baseline(scenario: Scenario, outcomes: Sequence[Outcome]) -> Outcome | None:
    return next((outcome for outcome in outcomes if outcome.contestant == scenario.baseline), None)


def _cells(scenario: Scenario, outcome: Outcome, baseline: Outcome | None) -> list[str]:
    medians = [(outcome.median(column.key), column.digits) for column in scenario.columns]
    cells = ["n/a" if median is None else f"{median:,.{digits}f}" for median, digits in medians]
    key = scenario.columns[0].key
    spread = outcome.spread(key)
    cells.insert(1, "" if spread is None else f"{spread:.0%}")
    if baseline is not None:
        ratio = outcome.ratio(key, baseline)
        cells.insert(1, "n/a" if ratio is None else f"{ratio:.2f}")
    return [outcome.contestant, *cells, "; ".join(outcome.notes)]


def table(scenario: Scenario, outcomes: Sequence[Outcome]) -> str:
    baseline = _baseline(scenario, outcomes)
    headings = ["", *(column.heading for column in scenario.columns), ""]
    headings[2:2] = ["spread"] if baseline is None else ["ratio", "spread"]
    rows = [headings, *(_cells(scenario, outcome, baseline) for outcome in outcomes)]
    widths = [max(len(row[number]) for row in rows) for number in range(len(headings) - 1)]
    better = "more" if scenario.higher_is_better else "less"
    against = f"; ratio to {scenario.baseline}" if baseline is not None else ""
    lines = [f"{scenario.title} [{scenario.name}]: {better} is better{against}"]
    for first, *middle, note in rows:
        aligned = "  ".join(cell.rjust(width) for cell, width in zip(middle, widths[1:], strict=True))
        lines.append(f"  {first.ljust(widths[0])}  {aligned}  {note}".rstrip())
    return "\n".join(lines)


def as_document(results: Results, facts: dict[str, object], settings: Settings) -> dict[str, object]:
    return {
        "machine": facts,
        "settings": dataclasses.asdict(settings),
        "scenarios": [_scenario_json(scenario, outcomes) for scenario, outcomes in results],
    }


def _scenario_json(scenario: Scenario, outcomes: Sequence[Outcome]) -> dict[str, object]:
    key, baseline = scenario.columns[0].key, _baseline(scenario, outcomes)
    return {
        "name": scenario.name,
        "title": scenario.title,
        "compared": key,
        "baseline": scenario.baseline,
        "higher_is_better": scenario.higher_is_better,
        "results": [
            {
                "contestant": outcome.contestant,
                "median": outcome.median(key),
                "spread": outcome.spread(key),
                "ratio": None if baseline is None else outcome.ratio(key, baseline),
                "notes": outcome.notes,
                "rounds": outcome.rounds,
            }
            for outcome in outcomes
        ],
    }


def write(results: Results, facts: dict[str, object], settings: Settings, options: argparse.Namespace) -> None:
    document = as_document(results, facts, settings)
    if options.json is not None:
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if options.plot is not None and results:
        plot.draw(results, caption(facts, settings), options.plot)
    if options.growth is not None:
        growth.draw(document, caption(facts, settings), options.growth)


def print_names() -> None:
    for scenario in SCENARIOS:
        print(f"{scenario.name}: {scenario.title}\n    {', '.join(scenario.contestants)}")


def measure(only: Sequence[str], settings: Settings, results: Results) -> None:
    for scenario, contestants in selection(only):
        results.append((scenario, scenarios.run(scenario, contestants, settings)))
        print(f"\n{table(*results[-1])}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.list:
        print_names()
        return 0
    try:
        if options.plot is not None or options.growth is not None:
            plot.require_matplotlib()  # now, not at the end
        return draw_again(options) if options.sources else run(options)
    except plot.NoPlot as reason:
        print(reason, file=sys.stderr)
        return 1


def draw_again(options: argparse.Namespace) -> int:
    """Pictures of earlier runs."""
    documents = [growth.read(source) for source in options.sources]
    first = documents[0]
    loads = " and ".join(str(document["machine"]["load_average"]) for document in documents)
    told = caption({**first["machine"], "load_average": loads}, Settings(**first["settings"]))
    measured = [scenario for document in documents for scenario in document["scenarios"]]
    if options.growth is not None:
        growth.draw({**first, "scenarios": measured}, told, options.growth)
    if options.plot is not None:
        plot.draw(_chosen(measured, options.only), told, options.plot)
    return 0


def _chosen(measured: Sequence[Mapping[str, Any]], only: Sequence[str]) -> Results:
    wanted = {scenario.name: scenario for scenario, _ in selection(only)}
    return [(wanted[each["name"]], _outcomes(each)) for each in measured if each["name"] in wanted]


def _outcomes(measured: Mapping[str, Any]) -> list[Outcome]:
    return [Outcome(each["contestant"], each["rounds"], each["notes"]) for each in measured["results"]]


def run(options: argparse.Namespace) -> int:
    settings, facts = settings_of(options), machine()
    print(caption(facts, settings), flush=True)
    results: Results = []
    status = 0
    try:
        with awake_cores() if settings.awake else contextlib.nullcontext():
            measure(options.only, settings, results)
    except load.Unavailable as reason:
        print(f"--awake: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: what was complete is kept", file=sys.stderr)
        status = 130  # as shells have it
    write(results, facts, settings, options)
    return status


if __name__ == "__main__":
    sys.exit(main())
