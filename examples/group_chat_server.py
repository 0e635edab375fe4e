"""A chat with rooms. Run it, then group_chat_client.py in several terminals; Ctrl-C ends it."""

from simplesockets import hisock

server = hisock.start_server(("127.0.0.1", 9999))


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


print("chat server on 127.0.0.1:9999", flush=True)
server.start()
