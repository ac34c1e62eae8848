"""How many nodes a trial has."""

import pytest

from paceline.benchmarks.spec.settings import Scale


@pytest.mark.parametrize(
    ("nodes", "room", "workers", "found"),
    [
        (None, None, 8, 1),
        (2, 8, 8, 1),
        (2, 8, 16, 2),
        (2, 1, 2, 2),
        (2, 1, 3, 1),  # cannot be divided
        (4, 2, 4, 2),
        (4, 2, 6, 3),
        (2, 1, 8, 2),  # more than there is room for
    ],
)
def test_a_trial_has_as_few_nodes_as_have_room(nodes, room, workers, found):
    assert Scale([workers], nodes=nodes, workers_per_node=room).nodes_of(workers) == found


@pytest.mark.parametrize("name", ["nodes", "workers_per_node"])
def test_less_than_one_is_refused(name):
    with pytest.raises(ValueError, match=f"scale.{name} must be at least 1, not 0"):
        Scale([1], **{name: 0})
