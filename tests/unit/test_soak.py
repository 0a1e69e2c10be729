"""What the soak makes of its samples, and its plot."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from benchmarks.plot import line_plot
from benchmarks.soak import draw, summarize

SVG = "{http://www.w3.org/2000/svg}"


def test_growth_is_from_the_second_quarter_to_the_last() -> None:
    mb = [500.0] * 10 + [100.0] * 10 + [200.0] * 10 + [103.0] * 10
    (memory,) = summarize([(n / 10, {"controller": value}) for n, value in enumerate(mb)])
    assert (memory.role, memory.growth_mb, memory.most_mb) == ("controller", 3.0, 500.0)


def test_a_process_that_was_hardly_seen_is_left_out() -> None:
    assert summarize([(0.0, {"controller": 1.0})] * 3) == []


def test_the_plot_has_a_line_for_each_process_and_says_how_long_it_was() -> None:
    samples = [(n / 10, {"controller": 80.0 + n, "ingress & co": 70.0}) for n in range(30)]
    root = ElementTree.fromstring(draw(3, samples))
    assert len(root.findall(f"{SVG}polyline")) == 2
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert "Resident memory over a soak of 3 minutes" in texts
    assert {"controller", "ingress & co", "MB"} <= set(texts)


def test_more_is_higher_and_later_is_further_right() -> None:
    root = ElementTree.fromstring(line_plot("t", "x", "y", {"a": [(0, 0), (1, 5), (2, 10)]}))
    (line,) = root.findall(f"{SVG}polyline")
    places = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
    assert [x for x, _ in places] == sorted({x for x, _ in places})
    assert [y for _, y in places] == sorted({y for _, y in places}, reverse=True)
