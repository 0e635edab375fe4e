"""A player of tic_tac_toe_server.py, which has to run already:

    python tic_tac_toe_client.py NAME

The other player does the same. Fields are numbered from 1 to 9.
"""

import sys

from simplesockets import hisock

if len(sys.argv) != 2:
    raise SystemExit(__doc__)
try:
    client = hisock.connect(("127.0.0.1", 9999), name=sys.argv[1])
except hisock.ServerNotRunning as failure:
    raise SystemExit(f"{failure} (tic_tac_toe_server.py)") from failure
print("Waiting for another player …", flush=True)


@client.on("begin")
def begin(mark: str):
    print(f"You are {mark}.", flush=True)


@client.on("board")
def board(cells: list):
    shown = [str(place) if cell == " " else cell for place, cell in enumerate(cells, 1)]
    rows = [" | ".join(shown[first : first + 3]) for first in (0, 3, 6)]
    print("\n" + "\n--+---+--\n".join(rows) + "\n", flush=True)


@client.on("turn", threaded=True)  # so that waiting for the player keeps nothing else from being shown
def turn():
    print("Your move, 1 to 9:", flush=True)
    place = sys.stdin.readline().strip()
    client.send("move", int(place) if place.isdecimal() else 0)


@client.on("told")
def told(text: str):
    print(text, flush=True)


@client.on("over")
def over(text: str):
    print(text, flush=True)
    client.close()


try:
    client.start()
except hisock.ServerNotRunning:
    raise SystemExit("The server has ended.") from None
