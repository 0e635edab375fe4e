"""A terminal for the chat of group_chat_server.py: python group_chat_client.py NAME ROOM

Lines are said to everybody in the room. /name NAME, /room ROOM, /who, and /quit are commands.
"""

import sys

from simplesockets import hisock

name, room = sys.argv[1:]
client = hisock.threaded_connect(("127.0.0.1", 9999), name=name, group=room)


@client.on("said")
def said(message: dict):
    print(f"{message['name']}: {message['text']}", flush=True)


@client.on("told")
def told(text: str):
    print(f"* {text}", flush=True)


@client.on("force_disconnect")
def ended():
    print("* the server ended the chat", flush=True)


client.start(error_handler=print)
for line in sys.stdin:
    word, _, rest = line.strip().partition(" ")
    if word == "/quit" or not client.connected:
        break
    if word == "/name":
        client.change_name(rest)
    elif word == "/room":
        client.change_group(rest)
    elif word == "/who":
        client.send("who")
    elif line.strip():
        client.send("say", line.strip())
client.close()
