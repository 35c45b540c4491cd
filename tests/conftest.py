"""Fixtures that every test may ask for; each has its module in tests/support/."""

import os

from hypothesis import HealthCheck, settings

pytest_plugins = ["cluster_fixtures", "kind_fixtures", "kind_images"]

# A law says what holds, not how fast: on a busy machine one example may take a second. People's runs try other examples each time;
# continuous integration tries the same in each run, so that one is not red for what the last one happened not to try.
settings.register_profile(
    "laws", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("laws")
