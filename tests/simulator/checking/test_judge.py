"""The judge accepts what is legal, and catches each kind of broken promise: one small history for each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetpack_simulator.checking import DeploymentCost, ViolationKind
from seen_objects import Story, deployment, foreign_pod, node, pool, replica


def kinds(story: Story) -> list[ViolationKind]:
    return [violation.kind for violation in story.recorder.report().violations]


# -- legal histories


def test_should_pass_a_fleet_that_keeps_every_promise() -> None:
    story = Story(nodes=[node("a"), node("b", "inf2.48xlarge", 24)], inferencedeployments=[deployment("12.00")])
    story.add(replica("chat-0", "0-7"), replica("chat-1", "8-9"), replica("chat-2", "0-7", on="b"))
    report = story.recorder.report()
    assert (report.violations, report.placements_checked, report.pods_seen, report.passed) == ((), 3, 3, True)


def test_should_not_pass_when_nothing_was_checked() -> None:
    report = Story(nodes=[node()]).recorder.report()
    assert (report.violations, report.passed) == ((), False)


def test_should_let_cores_be_used_again_once_their_pod_is_gone() -> None:
    old = replica("chat-0", "0-7")
    story = Story(nodes=[node()]).add(old).delete(old).add(replica("chat-1", "0-7"))
    assert kinds(story) == []


@pytest.mark.parametrize("phase", ["Failed", "Succeeded"])
def test_should_let_cores_be_used_again_once_their_pod_has_ended(phase: str) -> None:
    story = Story(nodes=[node()]).add(replica("chat-0", "0-7")).change(replica("chat-0", "0-7", phase=phase))
    assert kinds(story.add(replica("chat-1", "0-7"))) == []


def test_should_order_changes_by_their_version_and_not_by_their_arrival() -> None:
    story = Story(nodes=[node()])
    gone, successor = replica("chat-0", "0-7"), replica("chat-1", "0-7")
    story.add(gone)
    gone["metadata"]["resourceVersion"], successor["metadata"]["resourceVersion"] = "501", "502"
    story.recorder.watch_event("pods", {"type": "ADDED", "object": successor}, 10.0)
    story.recorder.watch_event("pods", {"type": "DELETED", "object": gone}, 11.0)
    assert kinds(story) == []


def test_should_accept_deletions_that_only_a_later_list_shows() -> None:
    story = Story(nodes=[node()]).add(replica("chat-0", "0-7"))
    successor = replica("chat-1", "0-7")
    successor["metadata"]["resourceVersion"] = "900"
    story.recorder.relist("pods", [successor], 20.0)
    assert kinds(story) == []


def test_should_count_devices_without_ids() -> None:
    gpus = node("g", "g6.12xlarge", None)
    gpus["status"]["allocatable"]["nvidia.com/gpu"] = "4"
    first, second = (replica(f"chat-{i}", None, on="g", requests={"nvidia.com/gpu": "2"}) for i in range(2))
    story = Story(nodes=[gpus]).add(first, second)
    report = story.recorder.report()
    assert (report.violations, report.placements_checked) == ((), 2)
    story.add(replica("chat-2", None, on="g", requests={"nvidia.com/gpu": "1"}))
    assert kinds(story) == [ViolationKind.CAPACITY_EXCEEDED]


def test_should_take_the_cores_that_the_kubelet_gave_for_the_truth() -> None:
    story = Story(nodes=[node()]).add(replica("chat-0", "0-3")).change(replica("chat-0", "0-3", allocated="4-7"))
    assert kinds(story.add(replica("chat-1", "0-3"))) == []
    assert kinds(story.add(replica("chat-2", "4-7"))) == [ViolationKind.DOUBLE_BOOKED]


def test_should_record_a_swap_of_equal_sizes_and_not_call_it_a_double_booking() -> None:
    story = Story(nodes=[node()]).add(replica("chat-0", "0-3"), replica("chat-1", "4-7"))
    story.change(replica("chat-0", "0-3", allocated="4-7"), replica("chat-1", "4-7", allocated="0-3"))
    report = story.recorder.report()
    assert (report.violations, report.swaps) == ((), 1)


# -- placements


@pytest.mark.parametrize("cores", ["1-2", "1-4", "0-1,4-5", "10-13"])
def test_should_catch_cores_that_may_not_serve_one_replica(cores: str) -> None:
    assert kinds(Story(nodes=[node(cores=12)]).add(replica("chat-0", cores))) == [ViolationKind.ILLEGAL_CORES]


def test_should_catch_a_core_in_two_pods_and_name_both() -> None:
    story = Story(nodes=[node()]).add(replica("chat-0", "0-7"), replica("chat-1", "6-7"))
    [violation] = story.recorder.report().violations
    assert str(violation) == (
        "2.000 double-booked: pod default/chat-1: holds cores 6-7 of node a, which pod default/chat-0 holds"
    )


def test_should_catch_a_pod_that_takes_over_from_one_still_terminating() -> None:
    leaving = replica("chat-0", "0-3")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    story = Story(nodes=[node()], pods=[replica("chat-0", "0-3")]).change(leaving)
    assert kinds(story.add(replica("chat-1", "0-3"))) == [ViolationKind.DOUBLE_BOOKED]


@pytest.mark.parametrize("cores", [None, "seven", "7-3", "0-9999"])
def test_should_catch_a_placement_that_nobody_can_read(cores: str | None) -> None:
    story = Story(nodes=[node()]).add(replica("chat-0", cores, count=8))
    assert kinds(story) == [ViolationKind.UNREADABLE_PLACEMENT]


def test_should_catch_a_replica_without_a_node() -> None:
    pod = replica("chat-0", "0-7")
    del pod["spec"]["affinity"]
    assert kinds(Story(nodes=[node()]).add(pod)) == [ViolationKind.UNREADABLE_PLACEMENT]


def test_should_catch_a_replica_that_asks_for_no_accelerator() -> None:
    story = Story(nodes=[node()]).add(replica("chat-0", "0-7", requests={"cpu": "1"}))
    assert kinds(story) == [ViolationKind.UNREADABLE_PLACEMENT]


def test_should_catch_a_count_that_differs_from_the_cores() -> None:
    story = Story(nodes=[node()]).add(replica("chat-0", "0-7", count=4))
    assert kinds(story) == [ViolationKind.COUNT_MISMATCH]


def test_should_catch_a_node_that_never_was() -> None:
    assert kinds(Story(nodes=[node()]).add(replica("chat-0", "0-7", on="b"))) == [ViolationKind.UNKNOWN_NODE]


def test_should_catch_a_node_gone_for_long_but_not_one_gone_just_now() -> None:
    story = Story(nodes=[node()]).delete(node()).add(replica("chat-0", "0-3"))
    assert kinds(story) == []
    assert kinds(story.after(10).add(replica("chat-1", "4-7"))) == [ViolationKind.UNKNOWN_NODE]


def test_should_catch_an_instance_type_without_a_rule() -> None:
    story = Story(nodes=[node("a", "x1.huge")]).add(replica("chat-0", "0-7"))
    assert kinds(story) == [ViolationKind.UNKNOWN_MACHINE]


def test_should_catch_a_node_with_another_number_of_cores_than_its_type_once() -> None:
    wrong = node("a", "inf2.24xlarge", 16)
    assert kinds(Story().add(wrong).change({**wrong, "spec": {"taints": []}})) == [ViolationKind.WRONG_NODE_SHAPE]


def test_should_know_both_modes_of_a_trainium2() -> None:
    story = Story().add(node("a", "trn2.48xlarge", 64), node("b", "trn2.48xlarge", 128))
    story.add(replica("chat-0", "0-7", on="b"))
    assert kinds(story) == []
    assert kinds(story.add(replica("chat-1", "0-7", on="a"))) == [ViolationKind.ILLEGAL_CORES]


def test_should_judge_a_pools_own_instance_type_by_the_pools_words() -> None:
    own = {
        "name": "lab.quad",
        "accelerator": "inferentia2",
        "devices": 4,
        "topology": "ring",
        "priceUSDPerHour": "4",
    }
    lab = pool("lab", customInstanceTypes=[own])
    story = Story(acceleratorpools=[lab], nodes=[node("a", "lab.quad", 8, pool="lab")])
    story.add(replica("chat-0", "2-5")).after(3600)
    report = story.recorder.report(until_seconds=story.now_seconds)
    assert (report.violations, report.usd_spent) == ((), pytest.approx(2.0))
    assert kinds(story.add(replica("chat-1", "6-8"))) == [ViolationKind.ILLEGAL_CORES]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(1, 3)), max_size=12))
def test_should_find_double_bookings_exactly_when_two_pods_hold_one_core(
    steps: list[tuple[int, int, int]],
) -> None:
    story = Story(nodes=[node("a", "inf2.48xlarge", 24)])
    held: dict[int, set[int]] = {}
    overlapping: set[frozenset[int]] = set()
    for number, first_device, devices in steps:
        name, cores = f"chat-{number}", range(first_device * 2, (first_device + devices) * 2)
        pod = replica(name, f"{cores[0]}-{cores[-1]}")
        if number in held:
            del held[number]
            story.delete(pod)
            continue
        overlapping |= {frozenset((number, other)) for other, taken in held.items() if taken & set(cores)}
        held[number] = set(cores)
        story.add(pod)
    double_booked = [kind for kind in kinds(story) if kind is ViolationKind.DOUBLE_BOOKED]
    assert len(double_booked) == len(overlapping)


# -- capacity


def test_should_catch_more_cores_than_a_node_has_left_by_count() -> None:
    story = Story(nodes=[node()], pods=[foreign_pod("other", cores="6")]).after(10)
    assert kinds(story.add(replica("chat-0", "0-7"))) == [ViolationKind.CAPACITY_EXCEEDED]


def test_should_forgive_a_foreign_pod_that_came_in_the_same_moment() -> None:
    story = Story(nodes=[node()]).add(foreign_pod("other", cores="6"))
    assert kinds(story.add(replica("chat-0", "0-7"))) == []


def test_should_catch_too_much_cpu_with_sidecars_and_init_steps_counted() -> None:
    pod = replica("chat-0", "0-7", requests={"aws.amazon.com/neuroncore": "8", "cpu": "90"})
    pod["spec"]["initContainers"] = [
        {"name": "proxy", "restartPolicy": "Always", "resources": {"requests": {"cpu": "5"}}},
        {"name": "fetch", "resources": {"requests": {"cpu": "91"}}},
    ]
    [violation] = Story(nodes=[node()]).add(pod).recorder.report().violations
    assert violation.message == "takes cpu of node a to 96000, of which it has 95690"


# -- money

PRICE = 6.49063


def test_should_catch_a_replica_that_takes_its_deployment_above_the_ceiling() -> None:
    story = Story(nodes=[node()], inferencedeployments=[deployment("5.00")])
    story.add(replica("chat-0", "0-7"))
    assert kinds(story) == []
    assert kinds(story.add(replica("chat-1", "8-11"))) == [ViolationKind.CEILING_CROSSED]


def test_should_not_blame_the_operator_for_a_ceiling_lowered_under_running_replicas() -> None:
    story = Story(nodes=[node()], inferencedeployments=[deployment("5.00")])
    story.add(replica("chat-0", "0-7")).change(deployment("1.00"), deployment("0.50"))
    assert kinds(story) == []


def test_should_give_a_lowered_ceiling_a_moment_to_be_heard_of() -> None:
    story = Story(nodes=[node()], inferencedeployments=[deployment("7.00")]).change(deployment("1.00"))
    story.add(replica("chat-0", "0-7"))
    assert kinds(story) == []
    assert kinds(story.after(5).add(replica("chat-1", "8-11"))) == [ViolationKind.CEILING_CROSSED]


def test_should_count_a_replacement_made_before_the_old_one_is_gone() -> None:
    story = Story(nodes=[node("a"), node("b")], inferencedeployments=[deployment("5.00")])
    story.add(replica("chat-0", "0-7"), replica("chat-1", "0-7", on="b"))
    assert kinds(story) == [ViolationKind.CEILING_CROSSED]


def test_should_keep_the_money_of_two_deployments_apart() -> None:
    story = Story(nodes=[node("a"), node("b")], inferencedeployments=[deployment("5.00"), deployment("5.00", "code")])
    story.add(replica("chat-0", "0-7"), replica("code-0", "0-7", on="b", deployment="code"))
    assert kinds(story) == []


def test_should_catch_a_deployment_with_a_ceiling_on_a_node_without_a_price() -> None:
    story = Story(nodes=[node("a", "trn2.48xlarge", 64)], inferencedeployments=[deployment("50")])
    story.add(replica("chat-0", "0-15"))
    report = story.recorder.report()
    assert [violation.kind for violation in report.violations] == [ViolationKind.PRICE_UNKNOWN]
    assert report.unpriced_instance_types == ("trn2.48xlarge",)


def test_should_price_a_node_as_its_pool_says() -> None:
    half = pool(priceOverrides=[{"instanceType": "inf2.24xlarge", "usdPerHour": "3.00"}])
    story = Story(acceleratorpools=[half], nodes=[node(pool="fleet")], inferencedeployments=[deployment("3.00")])
    story.add(replica("chat-0", "0-5"), replica("chat-1", "6-11"))
    assert kinds(story) == []
    spot = pool(priceOverrides=[{"instanceType": "inf2.24xlarge", "capacityType": "spot", "usdPerHour": "3.00"}])
    story.change(spot).after(5).delete(replica("chat-1", "6-11")).add(replica("chat-2", "6-11"))
    assert kinds(story) == [ViolationKind.CEILING_CROSSED]


def test_should_add_up_what_was_spent_from_placement_until_the_pod_is_gone() -> None:
    pod = replica("chat-0", "0-5")
    story = Story(acceleratorpools=[pool()], nodes=[node(pool="fleet")]).add(pod).after(1799).delete(pod).after(1799)
    report = story.recorder.report(until_seconds=3600.0)
    assert report.deployments == (
        DeploymentCost(deployment="default/chat", usd_spent=pytest.approx(PRICE / 4), peak_usd_per_hour=PRICE / 2),
    )
    assert report.usd_spent == pytest.approx(PRICE / 4)
    assert report.nodes_usd_spent == pytest.approx(PRICE)
    assert report.seconds == 3600.0


# -- pools


def test_should_catch_a_node_above_the_pools_limit_of_nodes() -> None:
    story = Story(acceleratorpools=[pool(limits={"nodes": 2})], nodes=[node("a", pool="fleet")])
    story.add(node("b", pool="fleet"))
    assert kinds(story) == []
    assert kinds(story.add(node("c", pool="fleet"))) == [ViolationKind.POOL_NODES_CROSSED]


def test_should_count_only_the_nodes_that_are_there() -> None:
    story = Story(acceleratorpools=[pool(limits={"nodes": 1})], nodes=[node("a", pool="fleet")])
    story.delete(node("a", pool="fleet")).add(node("b", pool="fleet"), node("c"), node("d", pool="other"))
    assert kinds(story) == []


def test_should_catch_a_node_above_the_pools_limit_of_money() -> None:
    story = Story(acceleratorpools=[pool(limits={"usdPerHour": "10"})], nodes=[node("a", pool="fleet")])
    assert kinds(story.add(node("b", pool="fleet"))) == [ViolationKind.POOL_COST_CROSSED]


def test_should_not_blame_the_operator_for_nodes_of_a_static_pool() -> None:
    static = pool(provider="Static", limits={"nodes": 0, "usdPerHour": "1"})
    assert kinds(Story(acceleratorpools=[static]).add(node("a", pool="fleet"))) == []


# -- the initial state, and reports


def test_should_judge_what_was_there_before_but_not_how_it_came_to_be() -> None:
    story = Story(
        nodes=[node("a", pool="fleet")],
        pods=[replica("chat-0", "0-7"), replica("chat-1", "6-9")],
        inferencedeployments=[deployment("0.01")],
        acceleratorpools=[pool(limits={"nodes": 0})],
    )
    assert kinds(story) == [ViolationKind.DOUBLE_BOOKED]


def test_should_give_a_report_that_json_can_hold() -> None:
    story = Story(nodes=[node()]).add(replica("chat-0", "1-2"))
    assert story.recorder.report().as_json() == {
        "passed": False,
        "placementsChecked": 1,
        "podsSeen": 1,
        "nodesSeen": 1,
        "seconds": 1.0,
        "usdSpent": 0.0,
        "nodesUSDSpent": 0.0,
        "deployments": [{"name": "default/chat", "usdSpent": 0.0, "peakUSDPerHour": pytest.approx(PRICE / 6)}],
        "unpricedInstanceTypes": [],
        "swaps": 0,
        "violations": [
            {
                "kind": "illegal-cores",
                "atSeconds": 1.0,
                "subject": "pod default/chat-0",
                "message": "cores 1-2 of node a (inf2.24xlarge): a set that fits one device lies across two",
            }
        ],
    }


def test_should_refuse_a_resource_that_it_does_not_check() -> None:
    with pytest.raises(ValueError, match="resource 'secrets' is not checked; it must be one of pods, nodes"):
        Story().recorder.relist("secrets", [], 0.0)
