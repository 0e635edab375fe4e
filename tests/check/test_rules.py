"""Each rule reports what it is about, where it is, and nothing else: small programs, and what is expected of each line.

A line that ends with ``#! key`` is to be reported for that fact (or those facts), one that has no such mark for none.
"""

from __future__ import annotations

import ast
import textwrap

import pytest

from simplesockets.check import FACTS, check_source
from simplesockets.check.rules import Finding
from simplesockets.check.signatures import arity

IMPORT = "from simplesockets import TCPServer\n"
SERVER = "from simplesockets import TCPServer\nserver = TCPServer()\nserver.setup('127.0.0.1')\nserver.start()\n"
CLIENT = "from simplesockets import TCPClient\nclient = TCPClient()\nclient.setup('127.0.0.1')\n"
HISOCK = "from simplesockets import hisock\nserver = hisock.start_server(('127.0.0.1', 5000))\n"
CHAT = "from simplesockets import hisock\nclient = hisock.connect(('127.0.0.1', 5000))\n"
HPX = "from simplesockets import hpx\nclient = hpx.Client('me')\n"

PROGRAMS = {
    # ---------------------------------------------------------------------------------------- simplesockets: imports
    "simplesockets:module": [
        "from simplesockets.securesockets.PyCryptodome_Socket import SecureServer #! module",
        "import simplesockets._support_files.Events as e #! module",
        "from importlib import import_module\nimport_module('simplesockets.example') #! module",
        "import simplesockets as s\ns.securesockets.PyCryptodome_Socket #! module",
        "from simplesockets import example #! module",
        "from simplesockets.typehints import Event, Better_Exception",
    ],
    "simplesockets:foreign": [
        "from simplesockets.simple_sockets import *\nt = threading.Thread() #! foreign\nTCPServer",
        "from simplesockets.simple_sockets import *\nimport threading\nt = threading.Thread()",
        "from simplesockets.simple_sockets import *\ndef f(time):\n    return time",
        "from simplesockets.simple_sockets import *\nfrom others import *\ntime.time()",
        "from simplesockets.simple_sockets import Callable, TCPServer #! foreign",
        "import simplesockets.simple_sockets as s\ns.socket.socket() #! foreign\ns.TCPServer",
        "from simplesockets import *\nthreading.Thread()",
    ],
    # ----------------------------------------------------------------------------------------------- secure sockets
    "simplesockets:secure-server": [
        "from simplesockets import SecureServer\ns = SecureServer()\ns.start()\ns.setup('127.0.0.1') #! secure-server",
        "import simplesockets.secure_sockets as x\ns = x.SecureServer(5)\ns.start()\ns.setup('::1', certfile='a.pem')",
        "from simplesockets import SecureServer\ns = SecureServer()\ns.start()\ns.setup('::1', ssl_context=context)",
        "from simplesockets import SecureServer\ns = SecureServer()\ns.start()\ns.setup(**options)",
    ],
    "simplesockets:secure-client": [
        "from simplesockets import SecureClient\nc = SecureClient()\nc.setup('host') #! secure-client",
        "from simplesockets import SecureClient\nc = SecureClient()\nc.setup('host', cafile='a.pem')",
    ],
    "simplesockets:secure-keys": [
        "from simplesockets import SecureServer\ns = SecureServer()\nprint(s.publickey) #! secure-keys",
        "from simplesockets import SecureClient\nc = SecureClient()\nc.key #! secure-keys\nc.cipher #! secure-keys",
        f"{SERVER}server.key",
    ],
    "simplesockets:keysize": [
        "from simplesockets import SecureServer\ns = SecureServer()\ns.start()\n"
        "s.setup('::1', certfile='a', keysize=1024) #! keysize",
    ],
    # ----------------------------------------------------------------------------------------------------- elements
    "simplesockets:len": [
        f"{SERVER}for element in server.return_recved_data():\n    len(element) #! len\n    len(element.response)",
        f"{SERVER}items = server.return_recved_data()\nlen(items)\nlen(items[0]) #! len",
        f"{SERVER}sizes = [len(e) for e in server.recved_data] #! len",
        f"{SERVER}for e in server.return_recved_data():\n    a, b, c = e\n    len(e)",
        f"{CLIENT}for e in client.return_recved_data():\n    len(e)",
    ],
    "simplesockets:index": [
        "from simplesockets import Socket_Response, TCPServer\ns = TCPServer()\ns.recved_data[0][0] #! index",
        "from simplesockets.simple_sockets import TCPServer\ns = TCPServer()\ns.recved_data[0][0] #! index",
        "from simplesockets.simplesockets import TCPServer\ns = TCPServer()\ns.recved_data[0][0]",
        f"{SERVER}for e in server.return_recved_data():\n    e[0] #! index\n    e.response[0]",
        f"{SERVER}for e in server.return_recved_data():\n    server.send_data(e[2], e[0])",
    ],
    "simplesockets:isinstance": [
        f"{CLIENT}for e in client.return_recved_data():\n    isinstance(e, bytes | str) #! isinstance",
        f"{SERVER}for e in server.recved_data:\n    isinstance(e, tuple) #! isinstance\n    isinstance(e, bytes)",
        f"{CLIENT}for e in client.return_recved_data():\n    isinstance(e, (str, bytes)) #! isinstance",
        "from simplesockets import TCPClient\nclient = TCPClient()\n"
        "def got(data):\n    isinstance(data, bytes) #! isinstance\nclient.setup('h', on_receive=got)",
        f"{CLIENT}isinstance(client.address, tuple)",
    ],
    # --------------------------------------------------------------------------------------------------- exceptions
    "simplesockets:exceptions-iterate": [
        f"{SERVER}for time in server.return_exceptions(): #! exceptions-iterate\n    pass",
        f"{CLIENT}e = client.return_exceptions()\nsorted(e) #! exceptions-iterate\nfor t, x in e.items():\n    pass",
        f"{SERVER}for t in server.event.exception.exceptions.exceptions: #! exceptions-iterate\n    pass",
        f"{SERVER}server.event.exception.list\nfor record in server.return_exceptions():\n    pass",
    ],
    "simplesockets:exceptions-dict": [
        f"{SERVER}server.return_exceptions().pop('x') #! exceptions-dict\nserver.return_exceptions().get('x')",
        f"{SERVER}e = server.return_exceptions()\nisinstance(e, dict) #! exceptions-dict\ne == {{}} #! exceptions-dict",
    ],
    "simplesockets:exceptions-truth": [
        f"{SERVER}print(server.event.exception.exceptions)",
        f"{SERVER}if server.event.exception.exceptions: #! exceptions-truth\n    pass",
        f"{SERVER}assert server.event.exception.exceptions #! exceptions-truth",
        f"{CLIENT}while not client.event.exception.exceptions: #! exceptions-truth\n    pass",
        f"{SERVER}bool(server.event.exception.exceptions) #! exceptions-truth\nbool(server.event.exception.occurred)",
    ],
    "simplesockets:exception-flag": [f"{SERVER}if server.exception: #! exception-flag\n    server.event.exception"],
    # ---------------------------------------------------------------------------------------------------- callbacks
    "simplesockets:connect-isinstance": [
        "import simplesockets\ns = simplesockets.TCPServer()\n"
        "def came(client):\n    isinstance(client, simplesockets.typehints.Server_Client) #! connect-isinstance\n"
        "s.on_connect = came",
    ],
    "simplesockets:callback": [
        f"{SERVER}server.on_connect = lambda: 0 #! callback\nserver.on_disconnect = lambda a: 0",
        f"{CLIENT}def connected(client):\n    pass\nclient.on_connect = connected #! callback",
        f"{CLIENT}client.setup('h', on_receive=lambda client, data: 0) #! callback",
        "from simplesockets import TCPServer\nserver = TCPServer()\nserver.start()\n"
        "server.setup('h', 1, 5, 2048, None, lambda: 0) #! callback",
        "from simplesockets import TCPServer\nclass S(TCPServer):\n    def serve(self):\n"
        "        self.setup('h', on_receive=self.got, on_connect=self.came) #! callback\n"
        "    def got(self, client, received):\n        pass\n    def came(self):\n        pass",
        f"{IMPORT}class S(TCPServer):\n    def on_connect(self): #! callback callback-method\n        pass",
        f"{SERVER}def f(a, *, key):\n    pass\nserver.on_connect = f #! callback",
        f"{SERVER}server.on_connect = print\nserver.on_receive = None\nserver.on_receive = lambda a, b, c, d=1: 0",
        f"{SERVER}class A:\n    @staticmethod\n    def f(a):\n        pass\nserver.on_connect = A().f",
        f"{SERVER}@cache\ndef f():\n    pass\nserver.on_connect = f",
        f"{SERVER}@with_retries.of(3)\ndef f():\n    pass\nserver.on_connect = f",
        f"{SERVER}import functools\n@functools.lru_cache\ndef f():\n    pass\nserver.on_connect = f",
    ],
    "simplesockets:callback-method": [
        f"{IMPORT}class S(TCPServer):\n    def on_receive(self, client, data): #! callback-method\n        pass",
        f"{IMPORT}class S(TCPServer):\n    def on_connected(self):\n        pass",
        "class A:\n    def on_connect(self):\n        pass",
    ],
    "simplesockets:callback-open": [
        f"{SERVER}server.on_receive = lambda *args: 0 #! callback-open",
        f"{SERVER}def got(client, data, extra=None):\n    pass\nserver.on_receive = got #! callback-open",
        "from simplesockets import TCPServer\ns = TCPServer()\ns.start()\n"
        "s.setup('h', handle_client=lambda c, a=0: 0) #! callback-open",
        f"{SERVER}server.on_receive = lambda client, received: 0",
        f"{SERVER}server.on_receive = lambda client, address, data: 0",
    ],
    # ---------------------------------------------------------------------------------------------------- lifecycle
    "simplesockets:default-ip": [
        "from simplesockets import TCPServer\ns = TCPServer()\ns.setup(port=1) #! default-ip\ns.start()",
        "from simplesockets import TCPServer\ns = TCPServer()\ns.setup('127.0.0.1')\ns.start()",
        "from simplesockets.simplesockets import TCPServer\ns = TCPServer()\ns.setup()\ns.start()",
    ],
    "simplesockets:never-started": [
        f"{IMPORT}s = TCPServer()\ns.setup('::1') #! never-started\ns.event.accepting_thread.x = 1",
        f"{CLIENT}client.start()\nimport simplesockets\ns = simplesockets.TCPServer()\ns.setup('::1') #! never-started",
        "from simplesockets import TCPServer\ns = TCPServer()\ns.setup('::1') #! never-started",
        "from simplesockets import TCPServer\ns = TCPServer()\ns.setup('::1')\nwith s:\n    pass",
        "from simplesockets import TCPServer\ns = TCPServer()\ns.setup('::1')\ns.event.accepting_thread.run = True",
        "from simplesockets import TCPServer\ndef make():\n    s = TCPServer()\n    s.setup('::1')\n    return s",
        "from simplesockets import TCPServer\ns = TCPServer()\ns.setup('::1')\nrun(s)",
    ],
    "simplesockets:send-raises": [
        f"{CLIENT}try:\n    client.send_data(b'x') #! send-raises\nexcept ConnectionError:\n    pass",
        f"{CLIENT}try:\n    client.send_data(b'x') #! send-raises\nexcept:\n    pass",
        f"{CLIENT}try:\n    if client.send_data(b'x'):\n        pass\nexcept OSError:\n    pass",
        f"{CLIENT}try:\n    client.send_data(b'x')\nexcept KeyboardInterrupt:\n    pass\nclient.send_data(b'y')",
        f"{SERVER}try:\n    server.send_data(b'x', a)\nexcept OSError:\n    pass",
    ],
    "simplesockets:killed": [f"{SERVER}while not server.killed():  #! killed\n    server.killed"],
    "simplesockets:private": [
        f"{SERVER}server._kill = True #! private\nserver._allthreads #! private",
        "from simplesockets import TCPClient\nclass C(TCPClient):\n    def f(self):\n"
        "        self._mine = self._target_ip #! private",
    ],
    # ------------------------------------------------------------------------------------------------------- hisock
    "hisock:import": [
        "import hisock #! import",
        "import hisock.utils as u #! import",
        "from hisock import connect, start_server #! import",
        "from hisock.client import HiSockClient as C #! import",
        "import simplesockets.hisock\nsimplesockets.hisock.install_as_hisock()\nimport hisock",
        "from simplesockets.hisock import install_as_hisock\ninstall_as_hisock()\nfrom hisock import connect",
        "from . import hisock\nfrom .hisock import connect\nimport hisocks",
        "import hisock  # check: ok",
        "import importlib as i\nh = i.import_module('hisock.client') #! import\nh.connect(a)._update() #! underscore",
        "h = __import__('hisock') #! import\n__import__('os')",
    ],
    "hisock:module": ["from simplesockets.hisock import _shared #! module\nhisock.examples"],
    "hisock:foreign": [
        "from simplesockets.hisock.server import *\njson.dumps(1) #! foreign",
        "from simplesockets.hisock import utils\nutils._type_cast(int, b'1', '') #! foreign\nutils.ipstr_to_tup('a')",
    ],
    "hisock:underscore": [
        f"{HISOCK}server._send_client_raw('a', b'') #! underscore\nserver._run() #! underscore",
        f"{CHAT}client._send_raw(b'x') #! underscore\nclient._update() #! underscore\nclient.raw_send(b'x')",
    ],
    "hisock:private": [f"{HISOCK}server._sockets_list #! private", f"{CHAT}client._reserved_funcs #! private"],
    "hisock:empty-group": [
        f"{HISOCK}server.send_group('g', 'x') #! empty-group",
        f"{HISOCK}try:\n    server.send_group('g', 'x')\nexcept TypeError:\n    pass",
        f"{HISOCK}server.send_client_raw('a', b'')\nserver.send_group('g', 'x', b'')",
    ],
    "hisock:equal": [
        f"{HISOCK}if server == '127.0.0.1:5000': #! equal\n    server.get_addr() == ('', 1)",
        f"{CHAT}client != other #! equal\nclient is other\nclient < other",
    ],
    "hisock:clients-table": [
        f"{HISOCK}del server.clients[sock] #! clients-table\nserver.clients[sock]",
        f"{HISOCK}server.clients_rev.pop(key) #! clients-table\nserver.clients.get(key)",
    ],
    "hisock:funcs": [f"{HISOCK}server.funcs['x']['func']() #! funcs"],
    "hisock:info-assign": [
        f"{HISOCK}@server.on('join')\ndef join(client):\n    client.name = 'x' #! info-assign\n    client.mood = 'x'",
        f"{HISOCK}info = server.get_client('a')\ninfo.group = None #! info-assign\ninfo['group'] = None",
    ],
    "hisock:ip-text": [
        f"{HISOCK}@server.on('join')\ndef join(c):\n    use(c.ip)",
        f"{CHAT}@client.on('x')\ndef f(m):\n    print(m.ip)",
        f"{HISOCK}@server.on('join')\ndef join(c):\n    print(f'{{c.ip}}') #! ip-text\n    c.ip[0]\n    f'{{c.name}}'",
        f"{HISOCK}for c in server.get_all_clients():\n    str(c['ip']) #! ip-text",
        f"{CHAT}print('who', client.get_client('a').ip) #! ip-text",
        f"{HISOCK}for name in server.get_all_clients('name'):\n    print(name.ip)",
    ],
    "hisock:handler": [
        f"{HISOCK}@server.on('join')\ndef join(): #! handler\n    pass",
        f"{HISOCK}server.on('x')(lambda a, b, c: 0) #! handler",
        f"{CHAT}class A:\n    def f(self, a, b):\n        pass\nclient.on('x')(A().f) #! handler",
        f"{HISOCK}@server.on('join', override=False)\ndef join(client, message): #! handler\n    pass",
        f"{HISOCK}@server.on('join', False, True)\ndef join(client, message):\n    pass",
        f"{HISOCK}@server.on('join', override=True)\ndef join(client, message):\n    pass",
        f"{HISOCK}@server.on('message')\ndef join(client, body):\n    pass\n@server.on(name)\ndef f():\n    pass",
        f"{CHAT}@client.on('*')\ndef f(command, data):\n    pass\n@client.on('force_disconnect')\ndef g():\n    pass",
    ],
    "hisock:handler-open": [
        f"{HISOCK}@server.on('x')\ndef f(*args): #! handler-open\n    0\n@server.on('join')\ndef g(*args):\n    0",
    ],
    "hisock:annotation": [
        f"{HISOCK}@server.on('x')\ndef f(client, m: tuple): #! annotation\n    pass",
        f"{CHAT}@client.on('x')\ndef f(m: set[int]): #! annotation\n    0\n@client.on('y')\ndef g(m: list):\n    0",
        f"{HISOCK}@server.on('name_change')\ndef f(client, old: tuple, new: tuple):\n    pass",
    ],
    "hisock:error-handler": [
        f"{HISOCK}server.start(error_handler=print) #! error-handler",
        f"{CHAT}client.start(None, print) #! error-handler",
        f"{HISOCK}try:\n    server.start() #! error-handler\nexcept Exception:\n    pass",
        f"{HISOCK}try:\n    server.start(callback)\nexcept KeyboardInterrupt:\n    pass",
        "from simplesockets import hisock\ns = hisock.ThreadedHiSockServer(('', 1))\n"
        "try:\n    s.start()\nexcept Exception:\n    pass",
    ],
    "hisock:cache-zero": [
        "from simplesockets import hisock\nhisock.HiSockClient(a, cache_size=0) #! cache-zero\n"
        "hisock.HiSockClient(a, cache_size=5)",
    ],
    "hisock:empty-content": [
        f"{HISOCK}server.disconnect_client(c, True, 0)\nserver.send_client(c, 'x', False)",
        f"{CHAT}client.send('x', 0) #! empty-content\nclient.send('x', 1)",
        f"{CHAT}client.send('x', content=[]) #! empty-content",
        f"{HISOCK}server.send_client(c, 'x', {{}}) #! empty-content\nserver.send_all_clients('x', {{'a': 1}})",
    ],
    "hisock:bad-host": [
        "from simplesockets import hisock\ntry:\n    hisock.start_server(a) #! bad-host\nexcept TypeError:\n    pass",
        "from simplesockets import hisock\ntry:\n    hisock.start_server(a)\nexcept (TypeError, OSError):\n    pass",
    ],
    # ---------------------------------------------------------------------------------------------------------- hpx
    "happypandax_client:import": [
        "import happypandax_client as hpxclient #! import",
        "from happypandax_client import Client #! import",
        "from simplesockets import hpx as hpxclient",
    ],
    "happypandax_client:private": [
        f"{HPX}client._sock.settimeout(1) #! private\nclient.handshake(_data={{}}) #! private\nclient.handshake()",
    ],
    "happypandax_client:star": [
        "from simplesockets.hpx import *\ntry:\n    pass\nexcept TimeoutError: #! star\n    pass",
        "from simplesockets import hpx\ntry:\n    pass\nexcept TimeoutError:\n    pass",
    ],
    "happypandax_client:logger": [
        "import logging\nlogging.getLogger('happypandax-client') #! logger\nlogging.getLogger('mine')"
    ],
}
"""Programs by the fact that they are about."""

CASES = [
    pytest.param(program, id=f"{key}-{number}")
    for key, programs in PROGRAMS.items()
    for number, program in enumerate(programs)
]


def wrong(program: str) -> list[Finding]:
    return [finding for finding in check_source(program) if finding.level != "ok"]


def expected(program: str) -> list[tuple[int, str]]:
    lines = enumerate(program.splitlines(), 1)
    return [(number, key) for number, line in lines for key in line.partition("#! ")[2].split()]


@pytest.mark.parametrize("program", CASES)
def test_a_program_is_told_what_concerns_it_and_nothing_else(program: str) -> None:
    told = {(finding.line, finding.fact.partition(":")[2]) for finding in wrong(program)}
    assert sorted(told) == expected(program)


def test_there_is_a_program_for_each_fact() -> None:
    reported = {finding.fact for programs in PROGRAMS.values() for program in programs for finding in wrong(program)}
    assert reported == set(FACTS) == set(PROGRAMS)


# ---------------------------------------------------------------------------------------------- following values

WAYS = {
    "another name": "import simplesockets.simple_sockets as s\nx = s.TCPServer()\n",
    "another name of the class": "from simplesockets import TCPServer as T\nx = T()\n",
    "the star": "from simplesockets.simple_sockets import *\nx = TCPServer()\n",
    "the package": "import simplesockets.simple_sockets\nx = simplesockets.simple_sockets.TCPServer()\n",
    "within a function": "def f():\n    from simplesockets import TCPServer\n    return TCPServer()\nx = f()\n",
    "an annotated variable": f"{IMPORT}x: TCPServer = make()\n",
    "a subclass": f"{IMPORT}class A(TCPServer):\n    pass\nclass B(A):\n    pass\nx = B()\n",
    "an alias": f"{IMPORT}T = TCPServer\ny = T()\nx = y\n",
    "an attribute": f"{IMPORT}class A:\n    def __init__(self):\n        self.s = TCPServer()\nx = A().s\n",
    "an attribute of a class": f"{IMPORT}class Data:\n    s = None\nData.s = TCPServer()\nx = Data.s\n",
    "None before": f"{IMPORT}x = None\nif here:\n    x = TCPServer()\n",
    "one of two": f"{IMPORT}x = TCPServer() if here else None\n",
    "one of two branches": f"{IMPORT}try:\n    x = TCPServer()\nexcept OSError:\n    x = 1\n",
    "several targets": f"{IMPORT}y, x = 1, TCPServer()\n",
    "the walrus": f"{IMPORT}if (x := TCPServer()):\n    pass\n",
    "with": f"{IMPORT}with TCPServer() as x:\n    pass\n",
    "a global": f"{IMPORT}x = None\ndef f():\n    global x\n    x = TCPServer()\nf()\n",
}
"""Ways to a server called x."""


@pytest.mark.parametrize("way", WAYS)
def test_a_server_is_known_by_whatever_name_it_goes(way: str) -> None:
    told = wrong(f"{WAYS[way]}x._kill\n")
    assert [(finding.line, finding.fact) for finding in told] == [(WAYS[way].count("\n") + 1, "simplesockets:private")]


USES = {
    "a function's parameter": "def f(y):\n    y._kill\nf(x)\n",
    "a named parameter": "def f(*, y):\n    y._kill\nf(y=x)\n",
    "a method's parameter": "class A:\n    def f(self, y):\n        y._kill\nA().f(x)\n",
    "a constructor's parameter": "class A:\n    def __init__(self, y):\n        self.y = y\n    def f(self):\n"
    "        self.y._kill\nA(x)\n",
    "an annotated parameter": "def f(y: TCPServer):\n    y._kill\n",
    "super": "class A(TCPServer):\n    def f(self):\n        super()._kill\n",
    "a closure": "def f():\n    return lambda: x._kill\n",
    "a loop": "while True:\n    x._kill\n",
    "a comprehension": "[x._kill for i in y]\n",
    "a format": "f'{x._kill}'\n",
    "a deep expression": "a(b=[{1: -x._kill}])\n",
    "a match": "match 1:\n    case 1:\n        x._kill\n",
    "a guard": "match 1:\n    case y if x._kill:\n        pass\n",
    "a message": "assert y, x._kill\n",
    "a coroutine": "async def f():\n    async with a as b:\n        await g(x._kill)\n",
    "a decorator": "@d(x._kill)\nclass A:\n    pass\n",
    "a default": "def f(a=x._kill):\n    pass\n",
    "a slice": "a[x._kill:] = 1\n",
    "a del": "del x._kill\n",
    "a finally": "try:\n    pass\nfinally:\n    x._kill\n",
}


@pytest.mark.parametrize("use", USES)
def test_a_server_is_known_wherever_it_is_used(use: str) -> None:
    told = wrong(f"{IMPORT}x = TCPServer()\n{USES[use]}")
    assert [finding.fact for finding in told] == ["simplesockets:private"]


OTHERS = {
    "another class": "class TCPServer:\n    pass\nx = TCPServer()\nx._kill",
    "another package": "from socketserver import TCPServer\nx = TCPServer()\nx._kill",
    "bound anew": f"{IMPORT}x = TCPServer()\nx = 1\nx._kill",
    "bound by a loop": f"{IMPORT}x = TCPServer()\nfor x in y:\n    x._kill",
    "a parameter": f"{IMPORT}x = TCPServer()\ndef f(x):\n    x._kill",
    "an exception": f"{IMPORT}x = TCPServer()\ntry:\n    pass\nexcept OSError as x:\n    x._kill",
    "of another function": f"{IMPORT}def f():\n    x = TCPServer()\ndef g():\n    x._kill",
    "of a class, in its method": f"{IMPORT}class A:\n    x = TCPServer()\n    def f(self):\n        x._kill",
    "no self": f"{IMPORT}class A(TCPServer):\n    @staticmethod\n    def f(x):\n        x._kill",
    "bound by a pattern": f"{IMPORT}x = TCPServer()\nmatch y:\n    case [1, x]:\n        x._kill",
    "bound by a star": f"{IMPORT}x = TCPServer()\na, *x = y\nx._kill",
    "a neighbour": "from .simplesockets import *\nfrom .hisock.server import *\nx = TCPServer()\nx._kill\njson",
    "text": "'import hisock; server._kill'",
    "nothing": "",
}


@pytest.mark.parametrize("program", [pytest.param(program, id=name) for name, program in OTHERS.items()])
def test_what_is_no_server_is_left_alone(program: str) -> None:
    assert wrong(program) == []


def test_what_runs_unchanged_is_told_too() -> None:
    program = "from simplesockets import TCPServer\nserver = TCPServer()\nserver.setup('::1')\nserver.start()\n"
    assert [(each.line, each.column, each.level, each.text) for each in check_source(program)] == [
        (1, 27, "ok", "the import of simplesockets.TCPServer runs unchanged"),
        (3, 1, "ok", "TCPServer.setup runs unchanged"),
        (4, 1, "ok", "TCPServer.start runs unchanged"),
    ]


PORTED = {
    "import hisock": "from simplesockets import hisock",
    "import hisock as h": "from simplesockets import hisock as h",
    "import hisock.utils": "from simplesockets import hisock",
    "import hisock.utils as u": "import simplesockets.hisock.utils as u",
    "import hisock, os": "from simplesockets import hisock; import os",
    "from hisock import connect as c, start_server": "from simplesockets.hisock import connect as c, start_server",
    "from hisock.client import *": "from simplesockets.hisock.client import *",
    "import happypandax_client": "from simplesockets import hpx as happypandax_client",
    "from happypandax_client import Client": "from simplesockets.hpx import Client",
}


@pytest.mark.parametrize("statement", PORTED)
def test_the_import_to_write_instead_runs_and_needs_no_more(statement: str) -> None:
    (finding,) = wrong(statement)
    assert finding.text.endswith(f"Write `{PORTED[statement]}`")
    assert wrong(PORTED[statement]) == []
    exec(PORTED[statement], {})


def test_a_finding_can_be_accepted_in_its_line() -> None:
    program = "import hisock  # check: ok\nimport hisock.utils\n"
    for source in (program, program.encode(), program.replace("\n", "\r\n").encode()):
        assert [finding.line for finding in wrong_in(source)] == [2]


def wrong_in(source: str | bytes) -> list[Finding]:
    return [finding for finding in check_source(source) if finding.level != "ok"]


def test_a_program_of_both_generations_of_two_packages_is_read_for_each() -> None:
    program = textwrap.dedent("""
        from simplesockets import TCPServer, hisock
        chat = hisock.HiSockServer(("::1", 1), blocking=False)
        server = TCPServer()
        server.setup()
        server.start()
    """)
    assert [finding.fact for finding in wrong(program)] == ["simplesockets:default-ip"]


ARITIES = {
    "lambda: 0": "no arguments",
    "lambda a: 0": "1 argument",
    "lambda a, b: 0": "2 arguments",
    "lambda a, b=1: 0": "1 to 2 arguments",
    "lambda *a: 0": "0 or more arguments",
    "lambda a, *, b: 0": "arguments that have to be named",
}


@pytest.mark.parametrize("function", ARITIES)
def test_what_a_function_takes_is_told_in_words(function: str) -> None:
    expression = ast.parse(function, mode="eval").body
    assert isinstance(expression, ast.Lambda)
    assert str(arity(expression, bound=False)) == ARITIES[function]
