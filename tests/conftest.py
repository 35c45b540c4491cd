"""Fixtures that every test may ask for; each has its module in tests/support/."""

pytest_plugins = ["cluster_fixtures", "kind_fixtures", "kind_images"]
