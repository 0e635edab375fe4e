"""A player of tic_tac_toe_server.py: python tic_tac_toe_client.py NAME"""

import sys

from simplesockets import hisock

client = hisock.connect(("127.0.0.1", 9999), name=sys.argv[1])


@client.on("begin")
def begin(mark: str):
    print(f"You are {mark}.", flush=True)


@client.on("board")
def board(cells: list):
    rows = [" | ".join(cells[first : first + 3]) for first in (0, 3, 6)]
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


client.start()
