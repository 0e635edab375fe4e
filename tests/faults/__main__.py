"""Cuts connections in the middle of transfers, many times, and tells what became of everything that was sent.

    python -m tests.faults [--layer raw polled framed hisock hpx] [--cuts 500] [--seed 1] [--tls | --both]

By hand: the test suite runs a few cuts of each layer. The exit code is 1 if anything was violated; the same seed
gives the same faults again, as far as threads let it.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from .cuts import Run
from .layers import LAYERS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line says; give the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Cut connections, and account for it.")
    parser.add_argument("--layer", nargs="+", choices=LAYERS, default=list(LAYERS), help="which; all of them")
    parser.add_argument("--cuts", type=int, default=500, help="of each layer (500)")
    parser.add_argument("--seed", type=int, default=1, help="of the faults (1)")
    parser.add_argument("--tls", action="store_true", help="encrypted")
    parser.add_argument("--both", action="store_true", help="plain, and then encrypted")
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)  # that connections break is what is wanted
    violated = False
    for name in options.layer:
        for tls in (False, True) if options.both else (options.tls,):
            with Run(LAYERS[name], tls, options.seed) as run:
                run.cut(options.cuts, samples=min(200, 10 * options.cuts))
            print(run.account, flush=True)
            violated = violated or bool(run.account.violations)
    return int(violated)


if __name__ == "__main__":
    sys.exit(main())
