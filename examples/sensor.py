"""A sensor for sensor_logger.py, which may come and go: nothing that was measured is lost. Ctrl-C ends it.

    python sensor.py NAME [SECONDS]

It measures every so many seconds (1), and keeps each reading until the logger has answered that it stored it. After a
lost connection it comes back by itself, and sends again what was not answered. Put a real measurement into measure().
"""

import json
import random
import sys
import threading
import time

from simplesockets import DelimiterFramer, FramedProtocol, Reconnect, TCPClient

KEPT = 100_000  # readings that wait at most; then the oldest go


def lines():
    return FramedProtocol(DelimiterFramer(b"\n", limit=1000))


def measure():
    return round(random.gauss(21.0, 0.5), 2)


class Sensor:
    """Readings on their way: kept in `waiting` by their time until they are stored."""

    def __init__(self, name):
        self.waiting = {}
        self._name = name
        self._lock = threading.Lock()  # protects what waits: callbacks run in threads of the client's
        self._client = TCPClient()
        self._client.setup(
            "127.0.0.1",
            9999,
            on_connect=self.send_again,
            on_receive=self.answered,
            protocol=lines,
            reconnect=Reconnect(most=10.0, initially=True),  # also if the logger is not there yet
        )
        self._client.autorecv()
        self._client.connect()

    def take(self, value):
        moment = time.time()
        with self._lock:
            self.waiting[moment] = reading = json.dumps({"sensor": self._name, "time": moment, "value": value})
            while len(self.waiting) > KEPT:
                del self.waiting[next(iter(self.waiting))]
        if self._client.event.is_connected:
            self._client.send_data(reading)  # False if it cannot be sent: then it is sent again

    def send_again(self):
        with self._lock:
            readings = list(self.waiting.values())
        for reading in readings:
            self._client.send_data(reading)

    def answered(self, line):
        if line.startswith(b"error"):
            print(line.decode(), file=sys.stderr, flush=True)
            return
        with self._lock:
            self.waiting.pop(float(line), None)

    def close(self):
        self._client.close()


def main():
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    seconds = float(sys.argv[2]) if len(sys.argv) == 3 else 1.0
    sensor = Sensor(sys.argv[1])
    try:
        while True:
            sensor.take(measure())
            time.sleep(seconds)
    finally:
        sensor.close()


if __name__ == "__main__":
    main()
