"""Counts, rates and times of appends."""

import pytest

from pyetcd.server.peer.appends import RECENT_MAX, Appends, Deliveries


def test_rates() -> None:
    appends = Appends()
    assert appends.rates(0.0) == (0.0, 0.0)
    appends.add(1.0, 100)
    assert appends.rates(1.0) == (0.0, 0.0)  # one alone took no time
    appends.add(1.5, 300)
    assert appends.rates(1.5) == (4.0, 800.0)
    assert appends.rates(2.4) == (4.0, 800.0)
    assert appends.rates(2.6) == (0.0, 0.0)
    assert appends.total == 2


def test_only_the_last_count() -> None:
    appends = Appends()
    for number in range(3 * RECENT_MAX):
        appends.add(number / 10, 7)
    packages, size = appends.rates(3 * RECENT_MAX / 10)
    assert packages == pytest.approx(RECENT_MAX / ((RECENT_MAX - 1) / 10))
    assert size == pytest.approx(7 * packages)
    assert appends.total == 3 * RECENT_MAX


def test_deliveries() -> None:
    deliveries = Deliveries()
    for took_s in (0.004, 0.001, 0.001):
        deliveries.add(took_s)
    assert deliveries.succeeded == 3
    assert deliveries.current_ms == deliveries.minimum_ms == pytest.approx(1)
    assert deliveries.maximum_ms == pytest.approx(4)
    assert deliveries.average_ms == pytest.approx(2)
    assert deliveries.deviation_ms == pytest.approx(2**0.5)
