"""Many clients of all kinds, for a long time, on a bad network; and an account of every message.

    python -m tests.soak [--minutes 15] [--clients 300] [--seed 1] [--rate 200]

By hand: the test suite runs a few seconds of it. The exit code is 1 if anything was violated.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from .soak import RATE, Soak


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line says; give the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Many clients on a bad network.")
    parser.add_argument("--minutes", type=float, default=15, help="for how long clients come (15)")
    parser.add_argument("--clients", type=int, default=300, help="how many at once (300)")
    parser.add_argument("--seed", type=int, default=1, help="of what happens (1)")
    parser.add_argument("--rate", type=float, default=RATE, help=f"records a second of all together ({RATE:.0f})")
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)  # that connections break is what is wanted
    account = Soak(options.clients, 60 * options.minutes, options.seed, options.rate).run()
    print(account, flush=True)
    return int(bool(account.violations))


if __name__ == "__main__":
    sys.exit(main())
