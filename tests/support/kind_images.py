"""pytest fixture: the project's images, built from the working tree and on every node of the session's kind cluster.

Boundary: `hack/images` does the work, on the engine of the cluster; with nothing changed that takes seconds. Failure: it says what is
in the way, and the tests that need the images fail.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

import pytest

from images_build.images import FLEETPACK, REPOSITORY, SIMULATED_ENGINE
from kind_fixtures import KindCluster


@dataclass(frozen=True, slots=True, kw_only=True)
class KindImages:
    """References of the images that the nodes have, as Pods name them."""

    fleetpack: str
    simulated_engine: str


@pytest.fixture(scope="session")
def kind_images(kind_cluster: KindCluster, request: pytest.FixtureRequest) -> KindImages:
    """Return the images, loaded into the session's kind cluster."""
    # The first build takes minutes, and says so to the person who waits.
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        return load_images(kind_cluster)


def load_images(cluster: KindCluster) -> KindImages:
    """Bring the images up to date and put them on the nodes of a kind cluster."""
    command = [sys.executable, str(REPOSITORY / "hack" / "images"), "--json", "--load", cluster.name]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=cluster.environment)
    if answer.returncode != 0:
        raise RuntimeError(f"hack/images failed with exit code {answer.returncode}; its words stand above")
    references = {entry["image"].partition(":")[0]: entry["image"] for entry in json.loads(answer.stdout)["images"]}
    return KindImages(fleetpack=references[FLEETPACK.name], simulated_engine=references[SIMULATED_ENGINE.name])
