"""Fixtures that every test may ask for; each has its module in tests/support/."""

from hypothesis import settings

pytest_plugins = ["cluster_fixtures", "kind_fixtures", "kind_images"]

# A law says what holds, not how fast: on a busy machine one example may take a second.
settings.register_profile("laws", deadline=None)
settings.load_profile("laws")
