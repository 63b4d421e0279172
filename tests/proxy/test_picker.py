"""Which endpoint of a gateway is next."""

from collections import Counter

from pyetcd.server.proxy.picker import Endpoint, Picker


def drawn(*values: int):  # type: ignore[no-untyped-def]
    left = list(values)
    return lambda limit: left.pop(0) % limit


def hosts(picker: Picker, times: int) -> str:
    return "".join(one.host if (one := picker.pick()) else "-" for _ in range(times))


def test_equals_take_turns() -> None:
    picker = Picker([Endpoint(name, 1) for name in "abc"], drawn())
    assert hosts(picker, 6) == "abcabc"


def test_what_failed_is_left_out_until_it_works() -> None:
    picker = Picker([Endpoint(name, 1) for name in "abc"], drawn())
    b = picker.endpoints[1]
    b.is_active = False
    assert "b" not in hosts(picker, 6) and picker.inactive() == [b]
    b.is_active = True
    assert "b" in hosts(picker, 3) and not picker.inactive()


def test_none_is_left() -> None:
    picker = Picker([Endpoint("a", 1, is_active=False)], drawn())
    assert picker.pick() is None


def test_the_best_priority_that_is_there() -> None:
    picker = Picker([Endpoint("a", 1, 1), Endpoint("b", 1, 0), Endpoint("c", 1, 1)], drawn())
    assert hosts(picker, 3) == "bbb"
    picker.endpoints[1].is_active = False
    assert hosts(picker, 4) == "acac" or hosts(picker, 4) == "caca"


def test_drawn_by_weight() -> None:
    """1 of 4 and 3 of 4, exactly: a draw of each number below their sum."""
    endpoints = [Endpoint("a", 1, 0, 1), Endpoint("b", 1, 0, 3)]
    picker = Picker(endpoints, drawn(0, 1, 2, 3))
    assert Counter(hosts(picker, 4)) == {"a": 1, "b": 3}


def test_weightless_beside_weighted_are_seldom() -> None:
    endpoints = [Endpoint("a", 1, 0, 1), Endpoint("z", 1)]
    picker = Picker(endpoints, drawn(1, 0, 0))  # 1: by weight, then 0 of 1; 0: a weightless one
    assert hosts(picker, 2) == "az"
