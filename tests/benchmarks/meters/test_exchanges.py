"""The fit of a link to measured exchanges, on times made by hand."""

import math

import pytest

from paceline.benchmarks.meters.exchanges import SIZES, errors, fit
from paceline.reports.measures.link import Link


def test_times_of_a_link_give_it_back() -> None:
    link = Link(100e-6, 2e9)
    found = fit(SIZES, [link.message(1, size) for size in SIZES])
    assert found.latency_s == pytest.approx(link.latency_s)
    assert found.bytes_per_s == pytest.approx(link.bytes_per_s)


def test_a_link_has_no_negative_latency() -> None:
    assert fit([1000, 2000, 4000], [1.0, 4.0, 16.0]).latency_s == 0
    assert math.isinf(fit([1000, 2000], [2.0, 1.0]).bytes_per_s)


def test_every_size_is_predicted_by_a_fit_that_has_not_seen_it() -> None:
    link = Link(100e-6, 2e9)
    times = {size: [link.message(1, size)] * 9 for size in SIZES}
    for size in SIZES[1::2]:
        times[size] = [1.25 * seconds for seconds in times[size]]
    found, relative = errors(times, 0.5)
    for size in SIZES[::2]:
        assert relative[size] == pytest.approx(0.25)
    for size in SIZES[1::2]:
        assert relative[size] == pytest.approx(0.2)
    assert link.latency_s < found.latency_s < 1.25 * link.latency_s


def test_the_lower_decile_is_not_moved_by_exchanges_that_were_held_up() -> None:
    link = Link(100e-6, 2e9)
    times = {size: [link.message(1, size)] * 6 for size in SIZES}
    for size in SIZES[1::4]:
        times[size] += [1.0] * 6
    assert max(errors(times, 0.1)[1].values()) == pytest.approx(0, abs=1e-9)
    assert max(errors(times, 0.6)[1].values()) > 0.5
