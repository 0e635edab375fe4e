"""A chat with rooms. Run it, then group_chat_client.py in several terminals; Ctrl-C ends it.

On several nodes: run redis-server; run this three times with a port and a place to meet, such as
`group_chat_server.py 9001 redis://localhost`; and run a balancer, such as `haproxy -db -f group_chat_haproxy.cfg`.
"""

import sys

from simplesockets import hisock

port = int(sys.argv[1]) if len(sys.argv) > 1 else 9999
backplane = sys.argv[2] if len(sys.argv) > 2 else None
server = hisock.HiSockServer(("127.0.0.1", port), backplane=backplane)


def tell(room, text):
    try:
        server.send_group(room, "told", text)
    except hisock.GroupNotFound:
        pass  # nobody is there to hear it


@server.on("join")
def join(client):
    tell(client.group, f"{client.name} came in")


@server.on("leave")
def leave(client):
    tell(client.group, f"{client.name} left")


@server.on("say")
def say(client, text: str):
    server.send_group(client, "said", {"name": client.name, "text": text})


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
    tell(new, f"{client.name} came in")


print(f"chat server on 127.0.0.1:{port}", flush=True)
server.start()
