"""Cuts connections in the middle of transfers, many times, and tells what became of everything that was sent.

    python -m tests.faults [--layer raw polled framed hisock hpx] [--cuts 500] [--seed 1] [--tls | --both]
    python -m tests.faults --crowd 2000 [--layer …] [--tls | --both]

The second form has servers bear connections that say nothing, or half of what they should, and tells how long others
wait.

By hand: the test suite runs a few cuts of each layer. The exit code is 1 if anything was violated; the same seed
gives the same faults again, as far as threads let it.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from .crowds import CrowdAccount, bear
from .cuts import Account, Run
from .layers import LAYERS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line says; give the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Cut connections, and account for it.")
    parser.add_argument("--layer", nargs="+", choices=LAYERS, default=list(LAYERS), help="which; all of them")
    parser.add_argument("--cuts", type=int, default=500, help="of each layer (500)")
    parser.add_argument("--seed", type=int, default=1, help="of the faults (1)")
    parser.add_argument("--tls", action="store_true", help="encrypted")
    parser.add_argument("--both", action="store_true", help="plain, and then encrypted")
    parser.add_argument("--crowd", type=int, metavar="N", help="no cuts, but so many half-open connections")
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)  # that connections break is what is wanted
    violated = False
    for name in options.layer:
        for tls in (False, True) if options.both else (options.tls,):
            account: Account | CrowdAccount
            account = bear(name, tls, options.crowd) if options.crowd else cut(name, tls, options.cuts, options.seed)
            print(account, flush=True)
            violated = violated or bool(account.violations)
    return int(violated)


def cut(name: str, tls: bool, cuts: int, seed: int) -> Account:
    """So many cuts of a layer."""
    with Run(LAYERS[name], tls, seed) as run:
        run.cut(cuts, samples=min(200, 10 * cuts))
    return run.account


if __name__ == "__main__":
    sys.exit(main())
