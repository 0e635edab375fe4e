"""A frontend in thirty lines: keeps notes in the server that ``python -m simplesockets hpx`` starts.

Started as ``python hpx_frontend.py [PORT]``.
"""

import sys

from simplesockets import hpx

USAGE = "list | get KEY | set KEY TEXT | delete KEY | time | quit"

with hpx.Client("notes", port=int(sys.argv[1]) if len(sys.argv) > 1 else 7007) as client:
    client.handshake()  # as a guest; or handshake("user", "password")
    print(f"connected to version {client.version['core']}; {USAGE}", flush=True)
    for line in sys.stdin:
        command, key, text = (line.strip() + "  ").split(" ", 2)
        try:
            if command == "list":
                print(*client.call("list_notes"), flush=True)
            elif command in ("get", "delete"):
                print(client.call(f"{command}_note", key=key), flush=True)
            elif command == "set":
                client.call("set_note", key=key, text=text.strip())
            elif command == "time":
                print(client.call("get_time"), flush=True)
            elif command == "quit":
                break
            else:
                print(USAGE, flush=True)
        except hpx.HPXError as failure:
            print(f"error {failure.code}: {failure.msg}", flush=True)
