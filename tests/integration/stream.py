"""Calls without end, from several threads, while something is done to those who answer them."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tests.integration.processes import wait_until

PAUSE_S = 0.01
"""Of each thread after a call: what is looked at is that calls go on, and not how many."""


class Stream:
    """Calls in four threads while the `with` block runs; counts answers, keeps errors."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(4)]
        self.count = 0
        self.errors: list[BaseException] = []

    def wait_for_more(self, count: int) -> None:
        """Return when so many more calls were answered."""
        wanted = self.count + count
        wait_until(lambda: self.count >= wanted)

    def _run(self) -> None:
        while not self._is_over.is_set():
            try:
                self._call()
                self.count += 1
            except Exception as error:  # noqa: BLE001 - the test looks at it
                self.errors.append(error)
            self._is_over.wait(PAUSE_S)

    def __enter__(self) -> Stream:
        for thread in self._threads:
            thread.start()
        try:
            self.wait_for_more(10)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()
