"""Reading single series of a metrics page."""

from __future__ import annotations

from observability.doctor.scrape import has_serve_series, read_series, sum_series

PAGE = """# HELP ray_serve_x_total About x.
# TYPE ray_serve_x_total counter
ray_serve_x_total{route="/a",replica="r#1"} 2.0
ray_serve_x_total{route="/a",replica="r#2"} 3.0
ray_serve_x_total{route="b, c", replica="r#2"} 1e1
ray_serve_x_total{broken 4
ray_serve_x_total_other{route="/a"} 100
ray_serve_x_total_created{route="/a"} 100
plain 7
"""


def test_series_of_one_name_are_summed_by_the_labels_they_must_have() -> None:
    assert sum_series(PAGE, "ray_serve_x_total", {"route": "/a"}) == 5
    assert sum_series(PAGE, "ray_serve_x_total", {"route": "b, c"}) == 10
    assert sum_series(PAGE, "ray_serve_x_total") == 15
    assert sum_series(PAGE, "plain") == 7


def test_no_series_is_none_and_not_nought() -> None:
    assert sum_series(PAGE, "ray_serve_x_total", {"route": "/none"}) is None
    assert sum_series("", "ray_serve_x_total") is None


def test_labels_are_read_with_the_value() -> None:
    assert next(read_series(PAGE, "ray_serve_x_total")) == (
        {"route": "/a", "replica": "r#1"},
        2.0,
    )


def test_a_page_with_a_series_of_serve_is_known() -> None:
    assert has_serve_series(PAGE)
    assert not has_serve_series("ray_nodes 1\n# HELP ray_serve_x_total nothing\n")
