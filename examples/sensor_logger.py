"""Keep what sensors measure, in SQLite. Run it, then sensor.py as often as you like; Ctrl-C ends it.

    python sensor_logger.py [FILE]            keep readings in that file (readings.db)
    python sensor_logger.py report [FILE]     what was measured so far

A reading is a line of JSON, such as {"sensor": "kitchen", "time": 1700000000.5, "value": 21.4}, and is answered by its
time when it is stored, or by a line that begins with "error". One that comes twice is stored once.
"""

import contextlib
import json
import math
import sqlite3
import sys
import threading

from simplesockets import DelimiterFramer, FramedProtocol, TCPServer

TABLE = "CREATE TABLE IF NOT EXISTS readings (sensor TEXT, time REAL, value REAL, PRIMARY KEY (sensor, time))"
REPORT = "SELECT sensor, count(*), min(value), avg(value), max(value) FROM readings GROUP BY sensor ORDER BY sensor"


class Store:
    """The database. Each client's callbacks run in a thread of their own, so one at a time may use it."""

    def __init__(self, file):
        self._lock = threading.Lock()
        self._database = sqlite3.connect(file, check_same_thread=False)
        self._database.execute(TABLE)

    def add(self, sensor, time, value):
        with self._lock, self._database:  # a transaction
            self._database.execute("INSERT OR IGNORE INTO readings VALUES (?, ?, ?)", (sensor, time, value))

    def report(self):
        with self._lock:
            return self._database.execute(REPORT).fetchall()

    def close(self):
        self._database.close()


def lines():
    return FramedProtocol(DelimiterFramer(b"\n", limit=1000))


def parsed(line):
    """The reading in a line. Whatever somebody sends, it is a reading or a ValueError."""
    try:
        reading = json.loads(line)
        sensor, time, value = str(reading["sensor"]), float(reading["time"]), float(reading["value"])
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as failure:
        raise ValueError("a reading is an object with sensor, time and value") from failure
    if not (math.isfinite(time) and math.isfinite(value)):
        raise ValueError("time and value are finite numbers")
    return sensor, time, value


def serve(store):
    def received(client, address, line):
        try:
            sensor, time, value = parsed(line)
        except ValueError as failure:
            client.send(f"error: {failure}")
            return
        store.add(sensor, time, value)
        client.send(repr(time))
        print(f"{sensor}: {value:g}", flush=True)

    server = TCPServer(max_connections=100)
    server.setup(ip="127.0.0.1", port=9999, on_receive=received, protocol=lines)
    with server:
        print("sensor logger on 127.0.0.1:9999", flush=True)
        threading.Event().wait()  # until Ctrl-C


def main(arguments):
    wants_report = arguments[:1] == ["report"]
    file = arguments[wants_report] if len(arguments) > wants_report else "readings.db"
    with contextlib.closing(Store(file)) as store:
        if wants_report:
            for sensor, count, least, mean, most in store.report():
                print(f"{sensor}: {count} readings from {least:g} to {most:g}, {mean:.1f} on average")
        else:
            serve(store)


if __name__ == "__main__":
    main(sys.argv[1:])
