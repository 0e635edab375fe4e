"""A terminal for the chat of group_chat_server.py, which has to run already:

    python group_chat_client.py NAME ROOM

Lines are said to everybody in the room. /name NAME, /room ROOM, /who, and /quit are commands.
"""

import sys

from simplesockets import hisock

ADDRESS = ("127.0.0.1", 9999)


class Chat:
    """What a person does in the chat, and sees of it. It needs no terminal: chat_window.py shows it in a window.

    `client` is connected; `show` is called with each line that comes, in the thread that runs the client's loop.
    """

    def __init__(self, client, show):
        self.client = client

        @client.on("said")
        def said(message: dict):
            show(f"{message['name']}: {message['text']}")

        @client.on("told")
        def told(text: str):
            show(f"* {text}")

        @client.on("force_disconnect")
        def ended():
            show("* the server ended the chat")

    def typed(self, line):
        """Do what a typed line means. Gives False where that is to end the chat."""
        word, _, rest = line.strip().partition(" ")
        if word == "/quit" or not self.client.connected:
            return False
        if word == "/name":
            self.client.change_name(rest)
        elif word == "/room":
            self.client.change_group(rest)
        elif word == "/who":
            self.client.send("who")
        elif word:
            self.client.send("say", line.strip())
        return True


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    try:
        client = hisock.threaded_connect(ADDRESS, name=sys.argv[1], group=sys.argv[2])
    except hisock.ServerNotRunning as failure:
        raise SystemExit(f"{failure} (group_chat_server.py)") from failure
    chat = Chat(client, lambda line: print(line, flush=True))
    with client:
        client.start(error_handler=print)
        for line in sys.stdin:
            if not chat.typed(line):
                break


if __name__ == "__main__":
    main()
