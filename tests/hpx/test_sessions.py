"""Sessions and login failures, with a clock that the test moves."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simplesockets.hpx import sessions
from simplesockets.hpx.sessions import LoginFailures, Sessions


def test_a_session_lives_on_with_each_use_and_expires_without() -> None:
    known = Sessions[str](lifespan=10)
    known.add("a", "context", 0)
    assert known.use("a", 9.9) == "context"
    assert known.use("a", 19.8) == "context"
    assert known.use("a", 29.8) is None
    assert known.use("a", 29.9) is None


def test_an_unknown_session() -> None:
    assert Sessions[str]().use("a", 0) is None


def test_a_lifespan_of_nothing_is_for_ever() -> None:
    known = Sessions[str](lifespan=0)
    known.add("a", "context", 0)
    assert known.use("a", 1e12) == "context"


def test_expired_sessions_are_removed_by_whatever_comes_next() -> None:
    known = Sessions[int](lifespan=10)
    for number in range(5):
        known.add(str(number), number, number)
    known.use("0", 9)
    known.use("unknown", 12.5)  # 1 and 2 are too old
    assert len(known) == 3
    assert known.use("0", 18.9) == 0
    assert len(known) == 1


def test_at_the_limit_the_longest_idle_goes() -> None:
    known = Sessions[int](lifespan=0, limit=3)
    for number in range(3):
        known.add(str(number), number, number)
    known.use("0", 5)
    known.add("3", 3, 6)
    assert [known.use(str(number), 7) for number in range(4)] == [0, None, 2, 3]


def test_all_end() -> None:
    known = Sessions[int]()
    known.add("a", 1, 0)
    known.clear()
    assert known.use("a", 0) is None


@pytest.mark.parametrize(("lifespan", "limit", "named"), [(-1, 1, "session_lifespan"), (1, 0, "max_sessions")])
def test_numbers_of_no_use(lifespan: float, limit: int, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Sessions[str](lifespan, limit)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans(), st.floats(0, 6))), st.integers(1, 4))
def test_against_a_plain_model(steps: list[tuple[str, bool, float]], limit: int) -> None:
    known, model, now = Sessions[str](lifespan=10, limit=limit), dict[str, float](), 0.0
    for number, (name, begins, passed) in enumerate(steps):
        now += passed
        model = {each: used for each, used in model.items() if now - used < 10}
        if begins:
            name = f"{name}{number}"
            while len(model) >= limit:
                del model[min(model, key=lambda each: model[each])]
            model[name] = now
            known.add(name, name, now)
        else:
            name = next((each for each in model if each.startswith(name)), name)
            assert (known.use(name, now) is not None) == (name in model)
            if name in model:
                del model[name]
                model[name] = now
        assert len(known) == len(model) <= limit


# ----------------------------------------------------------------------------------------------- login failures


def test_the_first_failures_are_free_then_delays_double_up_to_a_limit() -> None:
    failures = LoginFailures()
    delays = []
    for now in range(12):
        delays.append(failures.delay("a", now))
        failures.failed("a", now)
    assert delays[:7] == [0, 0, 0, 0.5, 1, 2, 4]
    assert set(delays[7:]) == {sessions.MAX_DELAY}
    assert failures.delay("b", 12) == 0


def test_a_success_and_time_make_good() -> None:
    failures = LoginFailures()
    for _ in range(5):
        failures.failed("a", 0)
    assert failures.delay("a", sessions.FORGIVEN_AFTER - 1) > 0
    assert failures.delay("a", sessions.FORGIVEN_AFTER) == 0
    failures.failed("a", sessions.FORGIVEN_AFTER)
    assert failures.delay("a", sessions.FORGIVEN_AFTER) == 0
    for _ in range(5):
        failures.failed("b", 0)
    failures.succeeded("b")
    assert failures.delay("b", 0) == 0


def test_any_number_of_failures_can_be_counted() -> None:
    failures = LoginFailures()
    for _ in range(3000):
        failures.failed("a", 0)
    assert failures.delay("a", 0) == sessions.MAX_DELAY


def test_the_table_is_bounded_and_who_failed_longest_ago_goes_first() -> None:
    failures = LoginFailures(limit=3)
    for address in "aaaabbbbccccad":
        failures.failed(address, 0)
    assert len(failures) == 3
    assert [failures.delay(address, 0) > 0 for address in "abc"] == [True, False, True]
