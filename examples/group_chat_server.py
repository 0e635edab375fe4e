"""A chat with rooms, which remembers what was said. Ctrl-C ends it.

Run it, then group_chat_client.py (a terminal) or chat_window.py (a window) as often as you like:

    python group_chat_server.py

On several nodes, which remember nothing: run redis-server; run this three times with a port and a place to meet, such
as `group_chat_server.py 9001 redis://localhost`; and run a balancer, such as `haproxy -db -f group_chat_haproxy.cfg`.
"""

import sys
from collections import defaultdict, deque

from simplesockets import hisock

REMEMBERED = 50  # lines that each room remembers while somebody is there

port = int(sys.argv[1]) if len(sys.argv) > 1 else 9999
backplane = sys.argv[2] if len(sys.argv) > 2 else None
server = hisock.HiSockServer(("127.0.0.1", port), backplane=backplane)
history = defaultdict(lambda: deque(maxlen=REMEMBERED))  # by room


def tell(room, text):
    try:
        server.send_group(room, "told", text)
    except hisock.GroupNotFound:
        history.pop(room, None)  # nobody is there to hear it: the room is gone


def enter(client, room):
    for message in history.get(room, ()):
        server.send_client(client, "said", message)
    tell(room, f"{client.name} came in")


@server.on("join")
def join(client):
    enter(client, client.group)


@server.on("leave")
def leave(client):
    tell(client.group, f"{client.name} left")


@server.on("say")
def say(client, text: str):
    message = {"name": client.name, "text": text}
    if backplane is None:
        history[client.group].append(message)
    server.send_group(client, "said", message)


@server.on("who")
def who(client):
    names = [each.name for each in server.get_group(client.group)]
    server.send_client(client, "told", f"in {client.group}: {', '.join(names)}")


@server.on("name_change")
def renamed(client, old, new):
    tell(client.group, f"{old} is {new} now")


@server.on("group_change")
def moved(client, old, new):
    tell(old, f"{client.name} went to {new}")
    enter(client, new)


print(f"chat server on 127.0.0.1:{port}", flush=True)
server.start()
