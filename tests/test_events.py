"""What programs get to see answers to both generations of them."""

from __future__ import annotations

import array
import contextlib
import copy
import gc
import pickle
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any, cast

import pytest

from simplesockets import events
from simplesockets.events import (
    EXCEPTION,
    EXCEPTIONS_KEPT,
    RECEIVED,
    ClientAddress,
    ClientTable,
    Ending,
    Event,
    ExceptionList,
    ExceptionRecord,
    ReceivedBytes,
    ReceivedItem,
    Socket_Response,
    to_bytes,
)
from simplesockets.server import Server_Client

NOON = datetime(2024, 5, 6, 12, 0, 0, 250000)
ADDRESS = ("192.0.2.1", 4711)


class FakeClient:
    """In the place of a server's client."""

    address = ADDRESS
    socket = "the socket"
    __special__ = "of this class alone"

    def send(self, data: bytes) -> int:
        """As if it sent."""
        return len(data)


CLIENT = cast(Server_Client, FakeClient())


def received_bytes(data: bytes = b"data") -> ReceivedBytes:
    return ReceivedBytes(data, NOON.timestamp(), CLIENT)


def received_item(data: bytes = b"data") -> ReceivedItem:
    return ReceivedItem(CLIENT, ADDRESS, data, NOON.timestamp())


both_kinds = pytest.mark.parametrize("make", [received_bytes, received_item])
Make = Callable[..., Any]


# ----------------------------------------------------------------------------------------------------- received


@both_kinds
def test_what_was_received_is_a_response(make: Make) -> None:
    item = make()
    assert isinstance(item, Socket_Response)
    assert item.response == b"data"
    assert isinstance(item.response, bytes)
    assert item.time_ == NOON
    assert item.from_ is CLIENT


@both_kinds
def test_a_response_equals_its_content_and_other_responses_of_it(make: Make) -> None:
    item = make()
    assert item.equals(b"data")
    assert item.equals(received_bytes())
    assert item.equals(received_item())
    assert item.equals(Socket_Response(b"data", NOON))
    assert not item.equals(b"other")
    assert not item.equals(received_item(b"other"))
    assert not item.equals((b"data",))


@both_kinds
def test_a_response_is_compared_with_nothing_but_content(make: Make) -> None:
    for other in ("data", 4, None, bytearray(b"data")):
        with pytest.raises(TypeError, match=type(other).__name__):
            make().equals(other)


def test_the_client_gets_bytes_without_a_sender() -> None:
    assert ReceivedBytes(b"data", 0.0).from_ is None


def test_received_bytes_are_bytes() -> None:
    item = received_bytes(b"a,b")
    assert isinstance(item, bytes)
    assert item == b"a,b"
    assert (item != b"a,b", item != b"else") == (False, True)
    assert hash(item) == hash(b"a,b")
    assert {b"a,b": 1}[item] == 1
    assert (len(item), item[0], item[-1:], list(item)) == (3, ord("a"), b"b", [97, 44, 98])
    assert (repr(item), str(item), f"{item!r}") == ("b'a,b'",) * 3
    assert (item + b"c", b"c" + item, item.split(b","), item.decode()) == (b"a,bc", b"ca,b", [b"a", b"b"], "a,b")
    assert b"," in cast(bytes, item)
    assert sorted([received_bytes(b"b"), b"a"]) == [b"a", b"b"]
    assert not received_bytes(b"")


def test_a_received_item_is_the_tuple_of_the_manual() -> None:
    item = received_item()
    client, address, data = item
    assert (client, address, data) == (CLIENT, ADDRESS, b"data")
    assert isinstance(item, tuple)
    assert item == (CLIENT, ADDRESS, b"data")
    assert hash(item) == hash((CLIENT, ADDRESS, b"data"))
    assert (len(item), item[0], item[2], item[-1], item[1:]) == (3, CLIENT, b"data", b"data", (ADDRESS, b"data"))
    assert repr(item) == str(item) == repr((CLIENT, ADDRESS, b"data"))
    assert b"data" in item


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_was_received_travels_in_a_pickle_as_its_content(protocol: int) -> None:
    again = pickle.loads(pickle.dumps(received_bytes(), protocol))
    assert (type(again), again) == (bytes, b"data")
    again = pickle.loads(pickle.dumps(received_item(), protocol))
    assert (type(again), again) == (tuple, (None, ADDRESS, b"data"))


@both_kinds
def test_a_copy_of_what_was_received_equals_it(make: Make) -> None:
    item = make()
    assert copy.copy(item) == item


def test_a_response_made_by_hand_holds_what_it_is_given() -> None:
    response = Socket_Response(b"data", NOON, CLIENT)
    assert (response.response, response.time_, response.from_) == (b"data", NOON, CLIENT)
    assert (len(response), response[1:], response[0]) == (4, b"ata", ord("d"))
    assert str(response) == f"Socket_Response(response=b'data', time={NOON})"
    assert Socket_Response((b"a", b"b"), NOON).equals((b"a", b"b"))
    assert Socket_Response(b"data", NOON).from_ is None


def test_what_can_be_sent_becomes_bytes() -> None:
    for data in (b"d\xc3\xa9", bytearray(b"d\xc3\xa9"), memoryview(b"d\xc3\xa9"), "dé", received_bytes(b"d\xc3\xa9")):
        assert to_bytes(data) == b"d\xc3\xa9"
    assert to_bytes(received_item()) == b"data"
    assert to_bytes(Socket_Response("dé", NOON)) == b"d\xc3\xa9"
    assert to_bytes(Socket_Response((b"a", b"b"), NOON)) == b"ab"
    assert to_bytes(memoryview(b"abcd")[::2]) == b"ac"
    assert to_bytes(array.array("B", b"abc")) == b"abc"


@pytest.mark.parametrize("data", [None, 5, ["a"], {"a": 1}, (b"a",)])
def test_what_cannot_be_sent_is_named(data: Any) -> None:
    with pytest.raises(TypeError, match=type(data).__name__):
        to_bytes(data)


# ----------------------------------------------------------------------------------------------- client address


def test_a_client_address_is_an_address() -> None:
    address = ClientAddress(ADDRESS, CLIENT)
    ip, port = address
    assert (ip, port) == address == ADDRESS
    assert (address[0], len(address), hash(address), repr(address)) == (ADDRESS[0], 2, hash(ADDRESS), repr(ADDRESS))
    assert {ADDRESS: "found"}[cast(Any, address)] == "found"


def test_a_client_address_answers_for_the_client() -> None:
    address = cast(Any, ClientAddress(ADDRESS, CLIENT))
    assert address.client is CLIENT
    assert (address.address, address.socket, address.send(b"data")) == (ADDRESS, "the socket", 4)
    with pytest.raises(AttributeError):
        _ = address.missing
    with pytest.raises(AttributeError):  # the language looks such names up, and must not find those of the client
        _ = address.__special__


def test_copies_and_pickles_of_a_client_address_are_the_address() -> None:
    address = ClientAddress(ADDRESS, CLIENT)
    assert copy.copy(address) == copy.deepcopy(address) == pickle.loads(pickle.dumps(address)) == ADDRESS


# ------------------------------------------------------------------------------------------------- client table


def test_clients_may_come_and_go_while_a_program_looks() -> None:
    table = ClientTable({("ip", port): port for port in range(4)})
    for address in table:
        del table[address]
    assert not table


@pytest.mark.parametrize("method", ["keys", "values", "items"])
def test_views_are_those_of_the_moment(method: str) -> None:
    table = ClientTable({("ip", port): port for port in range(4)})
    view = getattr(table, method)()
    before = list(getattr(dict, method)(table))
    table.clear()
    assert list(view) == before
    assert len(view) == 4


def test_a_client_table_is_a_dict_by_address() -> None:
    table = ClientTable({ADDRESS: "client"})
    assert table[ADDRESS] == "client"
    assert ADDRESS in table
    assert table == {ADDRESS: "client"}
    assert dict(table) == table.copy() == {ADDRESS: "client"}
    assert table.get(("nobody", 1)) is None
    assert [*table] == [ADDRESS]


@contextlib.contextmanager
def eager_collector(call: Callable[[str, dict[str, int]], None]) -> Iterator[None]:
    """The garbage collector runs as often as it can, and calls this."""
    usual = gc.get_threshold()
    gc.callbacks.append(call)
    gc.set_threshold(5)
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        gc.callbacks.remove(call)


@pytest.mark.parametrize("method", ["__iter__", "keys", "values", "items", "copy"])
def test_clients_may_come_and_go_while_the_collector_runs(method: str) -> None:
    # A collection can begin at any allocation (up to Python 3.11), and its finalizers let other threads run.
    table = ClientTable({("ip", port): port for port in range(500)})
    runs: list[str] = []

    def others(phase: str, _: dict[str, int]) -> None:
        runs.append(phase)
        table["another", len(runs)] = 0

    with eager_collector(others):
        for _ in range(20):
            list(getattr(table, method)())
    assert len(table) == 500 + len(runs) > 500  # else it did not run


# ------------------------------------------------------------------------------------------------------- events


def test_an_event_equals_its_name_and_every_event_of_it() -> None:
    event = Event("--RECEIVED--", NOON)
    assert event == "--RECEIVED--"
    assert event == RECEIVED == Event("--RECEIVED--")
    assert event not in (EXCEPTION, "--EXCEPTION--")
    assert hash(event) == hash("--RECEIVED--")
    assert {"--RECEIVED--": 1}[event] == 1
    assert event in ["--RECEIVED--"]


def test_an_event_has_a_name_and_a_time() -> None:
    event = Event("--RECEIVED--", NOON)
    assert (event.name, type(event.name), event.time_) == ("--RECEIVED--", str, NOON)
    assert f"{event}" == str(event) == "--RECEIVED--"


def test_an_event_happens_now_unless_a_time_is_given() -> None:
    before = datetime.now()
    assert before <= Event("x").time_ <= datetime.now()


def test_a_copied_event_happens_anew_unless_told_not_to() -> None:
    event = Event("x", NOON)
    assert event.copy() == event
    assert event.copy().time_ > NOON
    assert event.copy(new_time=False).time_ == NOON
    assert event.copy(False) is not event


def test_copies_and_pickles_of_an_event_keep_its_time() -> None:
    event = Event("x", NOON)
    for again in (copy.copy(event), copy.deepcopy(event), pickle.loads(pickle.dumps(event))):
        assert (type(again), again, again.time_) == (Event, "x", NOON)


def test_the_event_names_are_those_of_the_manual() -> None:
    names = [events.EXCEPTION, events.RECEIVED, events.TIMEOUT, events.DISCONNECT, events.CONNECTED]
    assert names == ["--EXCEPTION--", "--RECEIVED--", "--TIMEOUT--", "--DISCONNECT--", "--CONNECTED--"]


# --------------------------------------------------------------------------------------------------- exceptions


def test_a_record_is_the_tuple_of_traceback_and_exception() -> None:
    failure = ValueError("why")
    record = ExceptionRecord(failure, "the traceback", NOON)
    text, exception = record
    assert (text, exception) == ("the traceback", failure)
    plain: object = ("the traceback", failure)
    assert record == plain
    assert (record.traceback, record.exception, record.time) == ("the traceback", failure, NOON)
    assert str(record) == "ValueError: why\nTraceback:\nthe traceback"


def test_a_record_may_lack_a_traceback_and_is_of_now_unless_told() -> None:
    before = datetime.now()
    record = ExceptionRecord(ValueError())
    assert record.traceback is None
    assert before <= record.time <= datetime.now()


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda record: pickle.loads(pickle.dumps(record))])
def test_copies_and_pickles_of_a_record_hold_the_same(again: Callable[[ExceptionRecord], ExceptionRecord]) -> None:
    twin = again(ExceptionRecord(ValueError("why"), "the traceback", NOON))
    assert (twin.traceback, twin.time) == ("the traceback", NOON)
    assert isinstance(twin.exception, ValueError)
    assert str(twin.exception) == "why"


def filled(count: int) -> ExceptionList:
    """A list of exceptions numbered from 0, a second apart."""
    records = ExceptionList()
    for number in range(count):
        records.add(ExceptionRecord(ValueError(number), str(number), NOON + timedelta(seconds=number)))
    return records


def numbers(records: list[ExceptionRecord]) -> list[object]:
    return [record.exception.args[0] for record in records]


def test_an_exception_list_is_the_list_of_the_manual() -> None:
    records = filled(3)
    assert isinstance(records, list)
    assert [text for text, _ in records] == ["0", "1", "2"]
    assert (len(records), records[0].exception.args, records[-1][0]) == (3, (0,), "2")
    assert numbers(records[1:]) == [1, 2]
    assert not ExceptionList()


def test_an_exception_list_answers_the_calls_of_a_dictionary() -> None:
    records = filled(2)
    assert list(records.keys()) == ["12:00:00|06.05.2024", "12:00:01|06.05.2024"]
    assert list(records.values()) == records
    assert list(records.items()) == list(zip(records.keys(), records, strict=True))
    assert records.get("12:00:01|06.05.2024") is records[1]
    assert records["12:00:01|06.05.2024"] is records[1]
    assert records.get("never") is None
    with pytest.raises(KeyError, match="never"):
        _ = records["never"]


def test_get_takes_a_default_as_that_of_a_dictionary() -> None:
    get = cast(Any, filled(1).get)
    assert get("never", "default") == "default"


def test_a_record_is_found_by_its_time_too() -> None:
    records = filled(2)
    assert records.get(NOON) is records[NOON] is records[0]


def test_of_several_records_of_one_second_the_newest_is_found() -> None:
    records = ExceptionList()
    for number in range(3):
        records.add(ExceptionRecord(ValueError(number), None, NOON))
    assert records.get("12:00:00|06.05.2024") is records[2]


def test_exceptions_and_records_can_be_added() -> None:
    records = ExceptionList()
    record = ExceptionRecord(ValueError("record"))
    records.add(record)
    records.add(KeyError("bare"))
    records.add(KeyError("traced"), "the traceback")
    assert records[0] is record
    assert [each.traceback for each in records] == [None, None, "the traceback"]
    with pytest.raises(TypeError, match="'text'"):
        records.add(cast(Any, "text"))
    assert len(records) == 3


def test_the_newest_thousand_are_kept_and_the_others_counted() -> None:
    assert EXCEPTIONS_KEPT == 1000
    records = filled(1000)
    assert (len(records), records.dropped) == (1000, 0)
    records = filled(1003)
    assert (len(records), records.dropped) == (1000, 3)
    assert (numbers(records)[0], numbers(records)[-1]) == (3, 1002)


def test_clearing_forgets_how_many_were_dropped() -> None:
    records = filled(1001)
    records.clear()
    assert (records, records.dropped) == ([], 0)


def test_exceptions_is_a_copy_that_goes_its_own_way() -> None:
    records = filled(1002)
    for twin in (records.exceptions, records.copy()):
        assert twin == records
        assert isinstance(twin, ExceptionList)
        assert twin.dropped == 2
        twin.clear()
    assert (len(records), records.dropped) == (1000, 2)


def test_dropping_is_counted_for_each_list_by_itself() -> None:
    filled(1001)
    assert ExceptionList().dropped == 0


# ------------------------------------------------------------------------------------------------------- ending


def test_an_ending_tells_why() -> None:
    failure = ConnectionResetError("gone")
    assert str(Ending("peer closed")) == "peer closed"
    assert str(Ending("reset", failure)) == "reset: gone"
    assert Ending("reset", failure) == Ending("reset", failure) != Ending("peer closed")
