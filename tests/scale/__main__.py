"""Several nodes in the large, by hand: ``python -m tests.scale``. It needs redis-server, and takes about a minute.

    python -m tests.scale [--clients 300] [--groups 30] [--messages 20000] [--lease 5]

The test suite runs the same, smaller.
"""

from __future__ import annotations

import argparse

from ..support.redis import running_redis
from . import scenarios


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.scale", description="Several nodes in the large.")
    parser.add_argument("--clients", type=int, default=300)
    parser.add_argument("--groups", type=int, default=30)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--lease", type=float, default=5.0, help="seconds")
    given = parser.parse_args()
    size = (given.clients, given.groups, given.messages)
    with running_redis() as redis:
        print(scenarios.everybody_gets_everything_once_and_in_order(redis, *size), flush=True)
        print(scenarios.a_killed_node_takes_nothing_of_the_others_along(redis, *size, given.lease), flush=True)
        print(scenarios.a_restart_of_redis_is_accounted_for(redis, *size), flush=True)


if __name__ == "__main__":
    main()
