"""An echo server with a polling loop. Run it, then polled_client.py; Ctrl-C ends it.

python polled_echo_server.py
"""

from simplesockets import TCPServer

server = TCPServer()
server.setup(ip="127.0.0.1", port=9999)
server.start()
print("echo server on 127.0.0.1:9999", flush=True)

while True:
    if server.event.new_data:  # costs nothing while nothing happens
        for client, address, data in server.return_recved_data():
            print(f"{address}: {data!r}", flush=True)
            server.send_data(data, client)
