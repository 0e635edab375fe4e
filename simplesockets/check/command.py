"""The command line's part: ``python -m simplesockets check FILE…``."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from . import Finding, check_source

if TYPE_CHECKING:
    from argparse import _SubParsersAction

FINE, ATTENTION, UNREADABLE = 0, 1, 2
"""The exit codes."""


def add_command(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``check`` to a command line."""
    command = commands.add_parser(
        "check",
        help="say what of a program for simplesockets 0.x, hisock or happypandax_client runs here unchanged",
        description="Reads programs (without running them) that were written for simplesockets up to 0.4.0, hisock up "
        "to 2.0.2 or happypandax_client 1.0.0. Each line begins with file:line:column: and 'ok' (runs unchanged), "
        "'differs' (runs, and means something else) or 'change' (fails until it is rewritten).",
        epilog="Exit code: 0 if nothing needs attention, 1 if something does, 2 if a file cannot be read as Python 3.",
    )
    command.add_argument("paths", nargs="+", metavar="FILE", type=Path, help="a program, or a directory of programs")
    command.add_argument("-q", "--quiet", action="store_true", help="leave out what runs unchanged")
    command.add_argument("--json", action="store_true", help="print one list of objects, for programs")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check files and directories. Returns the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be anything
    told: list[dict[str, object]] = []
    counted: Counter[str] = Counter()
    for path in programs(options.paths):
        counted["file"] += 1
        findings, failure = look(path)
        if failure:
            counted["unreadable"] += 1
            told.append({"file": str(path), "level": "error", "text": failure})
        for finding in findings:
            counted[finding.level] += 1
            if finding.level != "ok" or not options.quiet:
                told.append({"file": str(path), **asdict(finding)})
    _tell(told, options.json)
    print(_summary(counted), file=sys.stderr)
    return UNREADABLE if counted["unreadable"] else ATTENTION if counted["differs"] + counted["change"] else FINE


def programs(paths: list[Path]) -> Iterator[Path]:
    """The files among these paths, and the programs in the directories among them, in order and each once."""
    seen: set[Path] = set()
    for path in paths:
        for found in _inside(path) if path.is_dir() else [path]:
            if found not in seen:
                seen.add(found)
                yield found


def _inside(directory: Path) -> Iterator[Path]:
    for where, directories, files in os.walk(directory):
        here = Path(where)
        # Hidden directories, caches and virtual environments hold nobody's own programs.
        directories[:] = sorted(
            name for name in directories if name[0] not in "._" and not (here / name / "pyvenv.cfg").exists()
        )
        yield from (here / name for name in sorted(files) if name.endswith((".py", ".pyw")))


def look(path: Path) -> tuple[list[Finding], str]:
    """The findings about a file, and why there are none where it cannot be read."""
    try:
        return check_source(path.read_bytes(), str(path)), ""
    except SyntaxError as failure:
        place = f"line {failure.lineno}: " if failure.lineno else ""
        return [], f"{place}this is no Python 3 ({failure.msg}); programs of Python 2 have to be ported first"
    except (OSError, ValueError) as failure:
        return [], f"it cannot be read: {failure}"
    except (RecursionError, MemoryError):
        return [], "it is nested too deeply to be read"


def _tell(told: list[dict[str, object]], as_json: bool) -> None:
    lines = [json.dumps(told, indent=1)] if as_json else [_line(each) for each in told]
    try:
        print("\n".join(lines), end="\n" if lines else "", flush=True)
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _line(each: dict[str, object]) -> str:
    place = f"{each['line']}:{each['column']}: " if "line" in each else " "
    return f"{each['file']}:{place}{each['level']}: {each['text']}"


def _summary(counted: Counter[str]) -> str:
    files = f"{counted['file']} file" + "s" * (counted["file"] != 1)
    attention = counted["differs"] + counted["change"]
    if not attention + counted["ok"] + counted["unreadable"]:
        return f"{files}: nothing of simplesockets, hisock or happypandax_client was recognised"
    parts = [f"{counted['ok']} places run unchanged", f"{attention} need attention"]
    if counted["unreadable"]:
        parts.append(f"{counted['unreadable']} cannot be read")
    return f"{files}: {', '.join(parts)}"
