"""One thread per test process (`make test` runs two on two cores), and which cases hypothesis draws.

`make test` draws the same cases every time: no run fails where the last one passed unless the code changed. `make fuzz`
draws new ones: 10,000 for every test marked `reader`, and `MORE` times as many as it asks for in any other property.
"""

import os

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")

FUZZ = "fuzz"
READER_CASES = 10_000
MORE = 20

settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile(FUZZ, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile("same")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "reader: gives a reader damaged files; `make fuzz` draws 10,000 of them")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under the fuzz profile every property draws more than the number that stands beside it."""
    if settings.get_current_profile_name() != FUZZ:
        return
    asked = set[object]()
    for item in items:
        test = getattr(item, "obj", None)
        own = getattr(test, "_hypothesis_internal_use_settings", None)
        if test is not None and own is not None and test not in asked:  # parameters of one test share its function
            asked.add(test)
            least = READER_CASES if item.get_closest_marker("reader") else 0
            test._hypothesis_internal_use_settings = settings(own, max_examples=max(least, MORE * own.max_examples))
