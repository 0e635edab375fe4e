"""One node, as a program: ``python -m tests.scale.node URL [LEASE]``. It prints its port, and how it fares when asked.

Its clients give it orders by commands: ``burst`` to send so many messages, in turn to so many groups; ``account`` to
tell what its cluster counted; ``who`` to tell how many clients there are.
"""

from __future__ import annotations

import json
import sys

from simplesockets.hisock import ClientInfo, HiSockServer, RedisBackplane


def main(url: str, lease: str = "15") -> None:
    server = HiSockServer(("127.0.0.1", 0), backplane=RedisBackplane(url, lease=float(lease)))
    cluster = server.cluster
    assert cluster is not None

    @server.on("burst", threaded=True)
    def burst(client: ClientInfo, order: dict) -> None:  # type: ignore[type-arg]
        for number in range(order["first"], order["first"] + order["count"]):
            server.send_group(f"g{number % order['groups']}", "m", f"{order['name']}:{number}")
        server.send_client(client, "sent")

    @server.on("account", threaded=True)
    def account(client: ClientInfo) -> None:
        figures = {
            name: getattr(cluster, name)
            for name in ("published", "dropped", "received", "missed", "waiting", "connected")
        }
        server.send_client(client, "account", json.dumps({**figures, "nodes": len(cluster.nodes)}))

    @server.on("who", threaded=True)
    def who(client: ClientInfo) -> None:
        server.send_client(client, "who", len(server.get_all_clients()))

    print(server.get_addr()[1], flush=True)
    server.start()


if __name__ == "__main__":
    main(*sys.argv[1:])
