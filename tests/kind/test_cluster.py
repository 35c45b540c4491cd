"""The kind cluster itself: what everything else in this folder stands on."""

from __future__ import annotations

import pytest

from kind_fixtures import KindCluster

pytestmark = pytest.mark.kind


def test_should_have_a_node_of_each_instance_type(kind_cluster: KindCluster) -> None:
    types = ("inf2.24xlarge", "inf2.48xlarge", "trn1.32xlarge")

    nodes = {kind_cluster.node_of(instance_type) for instance_type in types}

    assert len(nodes) == 3
    assert nodes < set(kind_cluster.nodes())


def test_should_run_commands_in_a_node(kind_cluster: KindCluster) -> None:
    node = kind_cluster.nodes()[0]

    assert kind_cluster.execute(node, "hostname").strip() == node
