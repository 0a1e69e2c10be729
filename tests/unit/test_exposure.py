"""Which methods may be a client's to call."""

from __future__ import annotations

import pytest

import serve
from serve.config import BackendConfig
from serve.exposure import is_exposable, is_exposed


def test_a_marked_method_is_exposed_and_others_are_not() -> None:
    class Model:
        @serve.expose
        def open(self) -> None: ...

        def closed(self) -> None: ...

    assert (is_exposed(Model().open), is_exposed(Model().closed)) == (True, False)


@pytest.mark.parametrize("name", ["reconfigure", "check_health"])
def test_what_tagtrail_calls_is_no_clients_to_call(name: str) -> None:
    def method() -> None: ...

    method.__name__ = name
    with pytest.raises(ValueError, match=f"@serve.expose names '{name}', which Tagtrail itself"):
        serve.expose(method)
    with pytest.raises(ValueError, match=f"exposed_methods names '{name}', which Tagtrail itself"):
        BackendConfig(exposed_methods=[name])


@pytest.mark.parametrize("name", ["_private", "__init__", "", "a b", "a.b"])
def test_what_is_not_public_is_no_clients_to_call(name: str) -> None:
    assert not is_exposable(name)
    with pytest.raises(ValueError, match="does not begin with '_'"):
        BackendConfig(exposed_methods=[name])
