"""A window for the chat of group_chat_server.py, which has to run already:

    python chat_window.py NAME ROOM

It needs tkinter, which comes with most Pythons (Debian: apt install python3-tk), and group_chat_client.py beside it;
what is typed means what it means there.
"""

import sys
import tkinter

from group_chat_client import ADDRESS, Chat

from simplesockets import hisock

PAUSE = 30  # milliseconds from one look for messages to the next


class Window:
    """The lines of the chat, and a field to type in. Everything happens in tkinter's own thread."""

    def __init__(self, root, client):
        self.root, self.client = root, client
        self.lines = tkinter.Text(root, state="disabled", width=60, height=20)
        self.entry = tkinter.Entry(root)
        self.lines.pack(expand=True, fill="both")
        self.entry.pack(fill="x")
        self.entry.bind("<Return>", self.entered)
        self.entry.focus()
        self.chat = Chat(client, self.show)
        root.title(f"{client.name} in {client.group}")
        self.look()

    def show(self, line):
        self.lines.configure(state="normal")
        self.lines.insert("end", line + "\n")
        self.lines.configure(state="disabled")
        self.lines.see("end")

    def entered(self, event):
        line = self.entry.get()
        self.entry.delete(0, "end")
        if not self.chat.typed(line):
            self.root.destroy()

    def look(self):
        """Handle what came. The client does not block, so the window never stands still."""
        try:
            self.client.update()
        except hisock.ServerNotRunning:
            self.show("* the connection has ended; close the window")
            return
        self.root.after(PAUSE, self.look)


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    try:
        client = hisock.connect(ADDRESS, name=sys.argv[1], group=sys.argv[2], blocking=False)
    except hisock.ServerNotRunning as failure:
        raise SystemExit(f"{failure} (group_chat_server.py)") from failure
    with client:
        root = tkinter.Tk()
        Window(root, client)
        root.mainloop()


if __name__ == "__main__":
    main()
