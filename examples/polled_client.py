"""Send a greeting to an echo server, which has to run already, and print what comes back.

python polled_client.py
"""

from simplesockets import TCPClient

client = TCPClient()
client.setup(target_ip="127.0.0.1", target_port=9999)
if not client.connect():
    raise SystemExit("start polled_echo_server.py or callback_echo_server.py first")
client.autorecv()
client.send_data("Hello, server!")

while not client.event.new_data:
    pass
for data in client.return_recved_data():
    print(data.decode())
client.close()
