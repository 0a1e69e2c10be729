"""A user's own metrics, made once or again and again."""

from __future__ import annotations

import pickle

import pytest

from observability.instrument.numbers import Buckets, process_numbers
from serve.metrics import Counter, Gauge, Histogram


def values(name: str) -> dict[str, float | Buckets]:
    """What a snapshot has of a metric, by the value of its tag `kind`."""
    (snapshot,) = (s for s in process_numbers.snapshot() if s.metric.name == name)
    return {sample.labels.get("kind", ""): sample.value for sample in snapshot.samples}


def test_a_metric_that_is_made_again_goes_on_counting() -> None:
    for _ in range(3):
        Counter("made_again", "As often as one likes.", ("kind",)).inc(tags={"kind": "a"})
    assert values("made_again") == {"a": 3.0}


def test_a_metric_made_for_each_request_grows_nothing() -> None:
    Counter("first").inc()
    before = len(process_numbers)
    for _ in range(1000):
        Counter("each_request", tag_keys=("kind",)).inc(tags={"kind": "a"})
        Gauge("each_level").set(1)
        Histogram("each_time", boundaries=[1, 2]).observe(1.5)
    assert len(process_numbers) == before


def test_a_metric_that_travelled_is_the_one_of_its_name() -> None:
    counter = Counter("travels", tag_keys=("kind",)).set_default_tags({"kind": "b"})
    pickle.loads(pickle.dumps(counter)).inc()
    counter.inc()
    assert values("travels") == {"b": 2.0}


def test_tag_keys_in_another_order_are_the_same_metric() -> None:
    Counter("ordered", tag_keys=("kind", "size")).inc(tags={"kind": "a", "size": "1"})
    Counter("ordered", tag_keys=("size", "kind")).inc(tags={"kind": "a", "size": "1"})
    assert values("ordered") == {"a": 2.0}


def test_another_metric_of_the_same_name_is_refused_and_spoils_no_snapshot() -> None:
    Counter("taken", tag_keys=("kind",)).inc(tags={"kind": "a"})
    with pytest.raises(ValueError, match=r"'taken'.*counter with tag_keys \('kind',\).*gauge"):
        Gauge("taken", tag_keys=("kind",))
    with pytest.raises(ValueError, match="another name"):
        Counter("taken")
    Histogram("taken_bounds", boundaries=[1])
    with pytest.raises(ValueError, match=r"boundaries \[1\.0\].*boundaries \[2\.0\]"):
        Histogram("taken_bounds", boundaries=[2])
    assert values("taken") == {"a": 1.0}
