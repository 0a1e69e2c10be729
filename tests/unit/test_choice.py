"""Which programs the stack starts, which are missing, and on which ports."""

from __future__ import annotations

import pytest

from observability.stack.choice import Choice, choose, settle_ports
from observability.stack.services import BY_NAME, StackError

ALL = set(BY_NAME)


def names(choice: Choice) -> list[str]:
    return [service.name for service in choice.services]


def missing(choice: Choice) -> list[str]:
    return [item.name for item in choice.missing]


def test_with_everything_there_loki_and_alloy_are_taken() -> None:
    choice = choose(ALL, (), ())
    assert names(choice) == ["loki", "alloy", "alertmanager", "prometheus", "grafana"]
    assert missing(choice) == []


def test_promtail_is_the_agent_where_there_is_no_alloy() -> None:
    assert names(choose(ALL - {"alloy"}, (), ()))[:2] == ["loki", "promtail"]


def test_victoria_logs_with_its_own_agent_takes_the_place_of_a_loki_that_is_not_there() -> None:
    choice = choose(ALL - {"loki"}, (), ())
    assert names(choice)[:2] == ["victoria-logs", "vlagent"]
    assert missing(choice) == []


def test_an_agent_of_another_store_is_none() -> None:
    choice = choose({"loki", "vlagent"}, (), ())
    assert names(choice) == ["loki"]
    assert missing(choice) == ["alloy", "promtail", "alertmanager", "prometheus", "grafana"]


def test_an_agent_without_a_store_is_not_started() -> None:
    choice = choose({"alloy", "prometheus"}, (), ())
    assert names(choice) == ["prometheus"]
    assert missing(choice)[:2] == ["loki", "victoria-logs"]


def test_with_nothing_there_all_are_missing_and_each_says_how_to_get_it() -> None:
    choice = choose((), (), ())
    assert names(choice) == []
    assert set(missing(choice)) == ALL
    assert all(item.how_to_get and item.role for item in choice.missing)


def test_what_runs_is_kept_when_a_likelier_one_comes_later() -> None:
    choice = choose(ALL, (), {"victoria-logs", "vlagent"})
    assert names(choice)[:2] == ["victoria-logs", "vlagent"]


def test_only_what_was_asked_for_in_the_order_of_start() -> None:
    choice = choose(ALL, ("vlagent", "victoria-logs"), ())
    assert names(choice) == ["victoria-logs", "vlagent"]
    assert missing(choice) == []


def test_what_was_asked_for_and_is_not_there_is_an_error_with_the_way_to_get_it() -> None:
    with pytest.raises(StackError, match=r"grafana is not on this machine\. .*grafana\.com"):
        choose({"prometheus"}, ("prometheus", "grafana"), ())


def test_a_name_that_is_none_is_told_with_those_there_are() -> None:
    with pytest.raises(StackError, match=r"'kibana'\. There are: loki, "):
        choose(ALL, ("kibana",), ())


SOME = [BY_NAME["prometheus"], BY_NAME["alertmanager"]]


def test_a_port_is_the_given_one_or_the_usual_one() -> None:
    ports = settle_ports({"prometheus": 1234}, None, SOME)
    assert ports["prometheus"] == 1234
    assert ports["alertmanager"] == 9093


def test_while_something_runs_its_ports_stay() -> None:
    kept = settle_ports({"prometheus": 1234}, None, SOME)
    assert settle_ports({}, kept, SOME) == kept
    assert settle_ports({"prometheus": 1234}, kept, SOME) == kept
    with pytest.raises(StackError, match=r"port 1234 for prometheus.* First: tagtrail stack down"):
        settle_ports({"prometheus": 4321}, kept, SOME)


def test_a_port_that_two_programs_would_share_is_refused() -> None:
    with pytest.raises(StackError, match="Port 9093 can't be both prometheus's and alertmanager's"):
        settle_ports({"prometheus": 9093}, None, SOME)


def test_two_programs_may_change_their_ports() -> None:
    ports = settle_ports({"prometheus": 9093, "alertmanager": 9090}, None, SOME)
    assert (ports["prometheus"], ports["alertmanager"]) == (9093, 9090)


def test_a_port_of_a_program_that_does_not_run_is_nobodys() -> None:
    assert settle_ports({"prometheus": 3000}, None, SOME)["prometheus"] == 3000


def test_a_port_name_that_is_none_is_told() -> None:
    with pytest.raises(StackError, match="No port is called 'web'"):
        settle_ports({"web": 1}, None, SOME)
