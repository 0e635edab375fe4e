"""A frontend in forty lines: it keeps notes in the server that ``python -m simplesockets hpx`` starts.

    python hpx_frontend.py [PORT [USER PASSWORD]]

Without a user it comes as a guest. With another server, change the names of the functions.
"""

import sys

from simplesockets import hpx

USAGE = "list | get KEY | set KEY TEXT | delete KEY | time | quit"

port, *credentials = sys.argv[1:] or ["7007"]
client = hpx.Client("notes", port=int(port))
try:
    client.connect()
    client.handshake(*credentials)
except hpx.HPXError as failure:
    raise SystemExit(f"error {failure.code}: {failure.msg}") from failure
with client:
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
