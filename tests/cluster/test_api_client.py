"""The client against the real API server, and what it makes of faults on the way there."""

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster_fixtures import Cluster
from fault_proxy import (
    CutAnswer,
    CutStream,
    DelayEvents,
    ErrorEvent,
    FaultProxy,
    Match,
    Moment,
    RefuseRequest,
    SlowAnswer,
)
from fleetpack.cluster.api_client import (
    KubernetesClient,
    PatchType,
    Selector,
    Write,
    WriteGate,
    list_items,
    resource_path,
)
from fleetpack.cluster.errors import (
    AlreadyExists,
    ConfigurationError,
    Conflict,
    ConnectionLost,
    DeliveryUnknown,
    Expired,
    Forbidden,
    Invalid,
    KubernetesError,
    NotFound,
    ServerError,
    TooManyRequests,
    WriteFenced,
)
from fleetpack.cluster.rate_limit import RateLimit, TokenBucket

cluster_test = pytest.mark.cluster


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"test": name}}, "data": data}


def config_maps(namespace: str, name: str | None = None) -> str:
    return resource_path("v1", "configmaps", namespace, name)


class Journal:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, int, str, str]] = []

    def before_write(self, write: Write) -> None:
        self.entries.append(("before", write.number, write.verb, ""))

    def after_write(self, write: Write, error: BaseException | None) -> None:
        self.entries.append(("after", write.number, write.verb, type(error).__name__ if error else ""))


# ----- paths and credentials, without a server


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (("v1", "nodes"), "/api/v1/nodes"),
        (("v1", "pods", "default"), "/api/v1/namespaces/default/pods"),
        (("v1", "pods", "default", "a", "binding"), "/api/v1/namespaces/default/pods/a/binding"),
        (
            ("fleetpack.dev/v1alpha1", "acceleratorpools", None, "p", "status"),
            "/apis/fleetpack.dev/v1alpha1/acceleratorpools/p/status",
        ),
        (("v1", "pods", "default", "a/../b"), "/api/v1/namespaces/default/pods/a%2F..%2Fb"),
    ],
)
def test_should_build_paths_of_collections_objects_and_subresources(arguments: tuple[str, ...], path: str) -> None:
    assert resource_path(*arguments) == path


def test_should_refuse_a_subresource_of_no_object() -> None:
    with pytest.raises(ValueError, match="subresource 'status' of pods needs a name"):
        resource_path("v1", "pods", "default", None, "status")


async def test_should_name_the_kubeconfig_that_is_missing_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"kubeconfig '.*nowhere'.*set KUBECONFIG"):
        await KubernetesClient.from_kubeconfig(tmp_path / "nowhere")


async def test_should_know_that_a_refused_connection_delivered_nothing() -> None:
    async with KubernetesClient.from_url("http://127.0.0.1:1") as client:
        with pytest.raises(ConnectionLost, match="create /api/v1/nodes: not delivered") as caught:
            await client.create("/api/v1/nodes", {})
    assert not caught.value.may_have_been_applied


# ----- reads and writes


@cluster_test
async def test_should_write_read_and_delete_an_object(direct: KubernetesClient, namespace: str) -> None:
    created = await direct.create(config_maps(namespace), config_map("a", x="1"))
    path = config_maps(namespace, "a")
    assert (await direct.get(path))["data"] == {"x": "1"}
    assert (await direct.patch(path, {"data": {"y": "2"}}))["data"] == {"x": "1", "y": "2"}
    json_patch = [{"op": "remove", "path": "/data/x"}]
    assert (await direct.patch(path, json_patch, content_type=PatchType.JSON))["data"] == {"y": "2"}
    applied = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"z": "3"}}
    latest = await direct.patch(path, applied, content_type=PatchType.APPLY, field_manager="status", force=True)
    assert latest["data"] == {"y": "2", "z": "3"}
    assert {entry["manager"] for entry in latest["metadata"]["managedFields"]} == {"fleetpack", "status"}
    replaced = await direct.replace(path, {**latest, "data": {"only": "this"}})
    assert replaced["data"] == {"only": "this"}
    await direct.delete(path, uid=created["metadata"]["uid"], resource_version=replaced["metadata"]["resourceVersion"])
    with pytest.raises(NotFound, match=rf'get {path} \(HTTP 404 NotFound\): configmaps "a" not found'):
        await direct.get(path)


@cluster_test
async def test_should_not_touch_an_object_that_is_no_longer_the_one_meant(
    direct: KubernetesClient, namespace: str
) -> None:
    old = await direct.create(config_maps(namespace), config_map("a"))
    path = config_maps(namespace, "a")
    new = await direct.patch(path, {"data": {"changed": "since"}})
    old_version = old["metadata"]["resourceVersion"]
    with pytest.raises(Conflict):
        await direct.replace(path, old)
    with pytest.raises(Conflict):
        await direct.patch(path, {"metadata": {"resourceVersion": old_version}, "data": {"mine": "1"}})
    with pytest.raises(Conflict):
        await direct.delete(path, resource_version=old_version)
    with pytest.raises(Conflict):
        await direct.delete(path, uid="somebody-else")
    with pytest.raises(AlreadyExists):
        await direct.create(config_maps(namespace), config_map("a"))
    assert await direct.get(path) == new


@cluster_test
async def test_should_leave_no_trace_of_a_dry_run(direct: KubernetesClient, namespace: str) -> None:
    assert (await direct.create(config_maps(namespace), config_map("a"), dry_run=True))["metadata"]["uid"]
    with pytest.raises(Invalid, match=r"metadata\.name"):
        await direct.create(config_maps(namespace), config_map("Not_A_Name"), dry_run=True)
    assert list_items(await direct.list(config_maps(namespace), selector=Selector(labels="test"))) == []


@cluster_test
async def test_should_say_what_a_user_without_rights_may_not_do(cluster: Cluster, namespace: str) -> None:
    async with await KubernetesClient.from_kubeconfig(cluster.user_kubeconfig("nobody")) as client:
        with pytest.raises(Forbidden, match=r"create .*configmaps \(HTTP 403 Forbidden\).*nobody"):
            await client.create(config_maps(namespace), config_map("a"))


@cluster_test
async def test_should_use_the_token_of_a_service_account(cluster: Cluster, namespace: str) -> None:
    kubeconfig = cluster.service_account_kubeconfig(namespace, "default")
    async with await KubernetesClient.from_kubeconfig(kubeconfig) as client:
        with pytest.raises(Forbidden, match=f"system:serviceaccount:{namespace}:default"):
            await client.list("/api/v1/nodes")


@cluster_test
async def test_should_ask_an_exec_plugin_for_its_token(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    kubeconfig = yaml.safe_load(cluster.service_account_kubeconfig(namespace, "default").read_text())
    user = kubeconfig["users"][0]["user"]
    api_version = "client.authentication.k8s.io/v1"
    credential = {"apiVersion": api_version, "kind": "ExecCredential", "status": {"token": user.pop("token")}}
    plugin = {
        "apiVersion": api_version,
        "command": "echo",
        "args": [json.dumps(credential)],
        "interactiveMode": "Never",
    }
    user["exec"] = plugin
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    async with await KubernetesClient.from_kubeconfig(tmp_path / "kubeconfig") as client:
        with pytest.raises(Forbidden, match=f"system:serviceaccount:{namespace}:default"):
            await client.list("/api/v1/nodes")


@cluster_test
async def test_should_find_the_loopback_without_the_proxy_of_the_environment(
    cluster: Cluster, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    async with (
        KubernetesClient.from_url(proxy.url) as plain,
        await KubernetesClient.from_kubeconfig(cluster.kubeconfig) as encrypted,
    ):
        assert (await plain.get("/version")) == (await encrypted.get("/version"))


@cluster_test
async def test_should_page_through_a_collection_as_of_one_moment(direct: KubernetesClient, namespace: str) -> None:
    for name in "abcde":
        await direct.create(config_maps(namespace), config_map(name))
    selector = Selector(labels="test")
    page = await direct.list(config_maps(namespace), selector=selector, limit=2)
    await direct.delete(config_maps(namespace, "e"))
    names = [item["metadata"]["name"] for item in list_items(page)]
    while token := page["metadata"].get("continue"):
        page = await direct.list(config_maps(namespace), selector=selector, limit=2, continue_token=token)
        names += [item["metadata"]["name"] for item in list_items(page)]
    assert names == ["a", "b", "c", "d", "e"]
    whole = await direct.list_all(
        config_maps(namespace), selector=Selector(labels="test notin (a)", fields="metadata.name!=b")
    )
    assert {"c", "d"} <= {item["metadata"]["name"] for item in whole["items"]}.difference({"a", "b", "e"})


# ----- the gate


@cluster_test
async def test_should_send_no_write_when_the_fence_is_closed(
    client: KubernetesClient, proxy: FaultProxy, namespace: str
) -> None:
    journal = Journal()
    writer = client.with_writes(fence=lambda now_seconds: False, observer=journal)
    with pytest.raises(WriteFenced, match=f"create {config_maps(namespace)}: not started") as caught:
        await writer.create(config_maps(namespace), config_map("a"))
    assert not caught.value.may_have_been_applied
    assert (proxy.requests, journal.entries) == ([], [])


@cluster_test
async def test_should_ask_the_fence_after_the_wait_for_a_token(proxy: FaultProxy, namespace: str) -> None:
    clock = {"now": 0.0}

    async def sleep(seconds: float) -> None:
        clock["now"] += seconds

    bucket = TokenBucket(RateLimit(requests_per_second=1.0, burst=1), monotonic=lambda: clock["now"], sleep=sleep)
    gate = WriteGate(bucket=bucket, fence=lambda now_seconds: now_seconds < 1.0, monotonic=lambda: clock["now"])
    async with KubernetesClient.from_url(proxy.url, gate=gate) as writer:
        await writer.create(config_maps(namespace), config_map("in-time"))
        with pytest.raises(WriteFenced):
            await writer.create(config_maps(namespace), config_map("too-late"))
    assert [json.loads(write.body)["metadata"]["name"] for write in proxy.writes()] == ["in-time"]


@cluster_test
async def test_should_show_every_write_to_the_observer_with_its_outcome(
    client: KubernetesClient, namespace: str
) -> None:
    journal = Journal()
    writer = client.with_writes(observer=journal)
    await writer.create(config_maps(namespace), config_map("a"))
    with pytest.raises(AlreadyExists):
        await writer.create(config_maps(namespace), config_map("a"))
    await writer.delete(config_maps(namespace, "a"))
    assert journal.entries == [
        ("before", 1, "create", ""),
        ("after", 1, "create", ""),
        ("before", 2, "create", ""),
        ("after", 2, "create", "AlreadyExists"),
        ("before", 3, "delete", ""),
        ("after", 3, "delete", ""),
    ]


@cluster_test
async def test_should_introduce_itself_and_tell_the_server_its_patience(
    client: KubernetesClient, proxy: FaultProxy, namespace: str
) -> None:
    await client.create(config_maps(namespace), config_map("a"))
    [write] = proxy.requests
    assert (write.verb, write.status, write.user_agent) == ("create", 201, "fleetpack/v1alpha1")
    assert write.query == {"fieldManager": "fleetpack", "timeout": "4s"}


# ----- faults


@cluster_test
async def test_should_report_when_to_come_back_and_not_wait_itself(
    client: KubernetesClient, proxy: FaultProxy, namespace: str
) -> None:
    proxy.inject(RefuseRequest(Match(verb="create"), 429, "TooManyRequests", retry_after_seconds=9))
    started_at_seconds = time.monotonic()
    with pytest.raises(TooManyRequests, match="retry after 9 s") as caught:
        await client.create(config_maps(namespace), config_map("a"))
    assert (caught.value.retry_after_seconds, caught.value.may_have_been_applied) == (9.0, False)
    assert time.monotonic() - started_at_seconds < 9.0


@cluster_test
async def test_should_not_claim_to_know_what_a_failing_server_stored(
    client: KubernetesClient, proxy: FaultProxy
) -> None:
    proxy.inject(RefuseRequest(Match(verb="patch"), 500, "InternalError"))
    with pytest.raises(ServerError, match="HTTP 500 InternalError") as caught:
        await client.patch("/api/v1/nodes/a", {})
    assert caught.value.may_have_been_applied


@cluster_test
@pytest.mark.parametrize("delivered", [True, False])
async def test_should_not_know_the_outcome_when_the_answer_is_cut_off(
    client: KubernetesClient, proxy: FaultProxy, namespace: str, *, delivered: bool
) -> None:
    proxy.inject(CutAnswer(Match(verb="create"), deliver_first=delivered))
    with pytest.raises(DeliveryUnknown, match="sent, and no answer") as caught:
        await client.create(config_maps(namespace), config_map("a"))
    assert caught.value.may_have_been_applied
    found = list_items(await client.list(config_maps(namespace), selector=Selector(labels="test")))
    assert [item["metadata"]["name"] for item in found] == (["a"] if delivered else [])
    assert len(proxy.writes()) == 1, "a create must not be repeated behind our back"


@cluster_test
async def test_should_give_up_a_write_after_its_time(proxy: FaultProxy, namespace: str) -> None:
    proxy.inject(SlowAnswer(Match(verb="create"), seconds=30.0))
    gate = WriteGate(timeout_seconds=0.5)
    async with KubernetesClient.from_url(proxy.url, gate=gate) as writer:
        started_at_seconds = time.monotonic()
        with pytest.raises(DeliveryUnknown):
            await writer.create(config_maps(namespace), config_map("a"))
    assert time.monotonic() - started_at_seconds < 30.0


@cluster_test
async def test_should_call_a_broken_read_lost_and_go_on_afterwards(client: KubernetesClient, proxy: FaultProxy) -> None:
    await client.get("/version")
    await proxy.stop()
    with pytest.raises(ConnectionLost):
        await client.get("/version")
    with pytest.raises(ConnectionLost) as caught:
        await client.create("/api/v1/nodes", {})
    assert not caught.value.may_have_been_applied
    await proxy.start()
    assert (await client.get("/version"))["major"] == "1"


@cluster_test
@pytest.mark.parametrize("moment", list(Moment))
async def test_should_let_a_hook_end_the_process_at_the_nth_write(
    client: KubernetesClient, proxy: FaultProxy, namespace: str, moment: Moment
) -> None:
    killed: list[str] = []
    proxy.on_write(2, moment, lambda record: killed.append(json.loads(record.body)["metadata"]["name"]))
    await client.create(config_maps(namespace), config_map("first"))
    with pytest.raises(DeliveryUnknown):
        await client.create(config_maps(namespace), config_map("second"))
    await client.create(config_maps(namespace), config_map("third"))
    found = list_items(await client.list(config_maps(namespace), selector=Selector(labels="test")))
    delivered = ["second"] if moment is Moment.AFTER_DELIVERY else []
    assert killed == ["second"]
    assert [item["metadata"]["name"] for item in found] == ["first", *delivered, "third"]


# ----- watches


async def watched(client: KubernetesClient, path: str, resource_version: str, **options: Any) -> list[tuple[str, str]]:
    seen: list[tuple[str, str]] = []
    async with client.watch(path, resource_version, selector=Selector(labels="test"), **options) as events:
        async for event in events:
            if event.type != "BOOKMARK":
                seen.append((event.type, event.object["metadata"]["name"]))  # noqa: PERF401  kept when the watch raises
    return seen


async def history(client: KubernetesClient, namespace: str) -> str:
    """Make some changes and return the resourceVersion before them."""
    resource_version = (await client.list(config_maps(namespace)))["metadata"]["resourceVersion"]
    await client.create(config_maps(namespace), config_map("a"))
    await client.patch(config_maps(namespace, "a"), {"data": {"x": "1"}})
    await client.delete(config_maps(namespace, "a"))
    return str(resource_version)


@cluster_test
async def test_should_follow_changes_until_the_server_ends_the_watch(client: KubernetesClient, namespace: str) -> None:
    resource_version = await history(client, namespace)
    seen = await watched(client, config_maps(namespace), resource_version, timeout_seconds=3)
    assert seen == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]


@cluster_test
async def test_should_raise_what_an_error_event_means(
    client: KubernetesClient, proxy: FaultProxy, namespace: str
) -> None:
    resource_version = await history(client, namespace)
    proxy.inject(ErrorEvent(Match(verb="watch"), after_events=1), times=1)
    proxy.inject(ErrorEvent(Match(verb="watch"), 500, "InternalError"), times=1)
    proxy.inject(RefuseRequest(Match(verb="watch"), 410, "Expired"), times=1)
    for expected in (Expired, ServerError, Expired):
        with pytest.raises(KubernetesError) as caught:
            await watched(client, config_maps(namespace), resource_version)
        assert type(caught.value) is expected


@cluster_test
@pytest.mark.parametrize("in_the_middle", [True, False])
async def test_should_notice_a_stream_that_is_cut(
    client: KubernetesClient, proxy: FaultProxy, namespace: str, *, in_the_middle: bool
) -> None:
    resource_version = await history(client, namespace)
    proxy.inject(CutStream(Match(verb="watch"), after_events=2, in_the_middle=in_the_middle))
    with pytest.raises(ConnectionLost):
        await watched(client, config_maps(namespace), resource_version)


@cluster_test
async def test_should_notice_a_stream_that_is_silent(
    client: KubernetesClient, proxy: FaultProxy, namespace: str
) -> None:
    resource_version = await history(client, namespace)
    proxy.inject(DelayEvents(Match(verb="watch"), seconds=60.0))
    with pytest.raises(ConnectionLost, match="Timeout"):
        await watched(client, config_maps(namespace), resource_version, inactivity_seconds=0.5)


@cluster_test
async def test_should_take_an_object_as_large_as_the_server_stores(client: KubernetesClient, namespace: str) -> None:
    resource_version = (await client.list(config_maps(namespace)))["metadata"]["resourceVersion"]
    noise = random.Random(1).randbytes(500_000).hex()
    await client.create(config_maps(namespace), config_map("large", noise=noise))
    assert await watched(client, config_maps(namespace), resource_version, timeout_seconds=3) == [("ADDED", "large")]
