"""The playground: a web page that shows what an HPX server and a client say to each other, and lets a person try calls.

    python -m simplesockets playground [--server HOST:PORT]

How a call travels, file by file: page/ (what the browser has), guard (who may ask), web (what is asked for), forms
(what was typed), worker (waits in place of the web server), bench (what is known), line (the connection to the server);
and back: line, bench, history, feed (the live channel), page/.

Needs the extra ``simplesockets[playground]``.
"""

from .playground import Playground

__all__ = ["Playground"]
