"""What the chart makes of `devicePlugin`: where the plugin runs, with which rights, and when it must not be there at all."""

from __future__ import annotations

from typing import Any

import pytest

from chart import NAMESPACE, Manifest, of_kind, rendered, template, the
from fleetpack.catalog import load_catalog
from fleetpack.cli.device_plugin import device_plugin

pytestmark = pytest.mark.cluster

PLUGIN = "fleetpack-device-plugin"
ON = "devicePlugin.enabled=true"


def pod_of(manifests: list[Manifest]) -> dict[str, Any]:
    pod: dict[str, Any] = the(manifests, "DaemonSet")["spec"]["template"]["spec"]
    return pod


def container_of(manifests: list[Manifest]) -> dict[str, Any]:
    [container] = pod_of(manifests)["containers"]
    return dict(container)


def test_should_not_be_there_unless_asked_for() -> None:
    names = {item["metadata"]["name"] for item in rendered()}
    assert not {name for name in names if "device-plugin" in name}


def test_should_be_a_daemon_with_an_account_and_rights_of_its_own() -> None:
    own = [item for item in rendered(ON) if item["metadata"]["name"] in (PLUGIN, f"{PLUGIN}-node")]
    assert sorted(item["kind"] for item in own) == [
        "ClusterRole",
        "ClusterRoleBinding",
        "DaemonSet",
        "ServiceAccount",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "ValidatingAdmissionPolicyBinding",
    ]


def test_should_give_its_account_no_more_than_it_needs() -> None:
    manifests = rendered(ON)
    assert the(manifests, "ClusterRole", PLUGIN)["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch", "patch"]},
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch", "patch"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
    ]
    account = pod_of(manifests)["serviceAccountName"]
    binding = the(manifests, "ClusterRoleBinding", PLUGIN)
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}]
    for policy in (PLUGIN, f"{PLUGIN}-node"):
        [condition] = the(manifests, "ValidatingAdmissionPolicy", policy)["spec"]["matchConditions"]
        assert condition["expression"].endswith(f"'system:serviceaccount:{NAMESPACE}:{account}'")


@pytest.mark.parametrize(
    "settings",
    [
        (ON,),
        (ON, "devicePlugin.source=simulated", "devicePlugin.wholeDevices=true", "devicePlugin.numa=true"),
        (
            ON,
            "devicePlugin.instanceType=inf2.xlarge",
            "devicePlugin.coreNumbering=host",
            "devicePlugin.neuronMonitorURL=http://$(HOST_IP):8000/metrics",
            "devicePlugin.extraArguments={--log-format=json}",
            "devicePlugin.unhealthyFile=/etc/fleetpack/unhealthy",
        ),
    ],
)
def test_should_call_the_command_with_options_that_it_knows(settings: tuple[str, ...]) -> None:
    container = container_of(rendered(*settings))
    assert container["command"] == ["fleetpack", "device-plugin"]
    context = device_plugin.make_context("device-plugin", ["--node-name=a", *container["args"]])
    assert not context.args
    assert {entry["name"] for entry in container["env"]} >= {"NODE_NAME", "HOST_IP"}


def test_should_serve_probes_on_the_port_of_the_command() -> None:
    container = container_of(rendered(ON))
    [port] = [parameter.default for parameter in device_plugin.params if parameter.name == "http_port"]
    assert container["ports"] == [{"name": "http", "containerPort": port}]
    assert container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "http"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}


def test_should_reach_the_kubelet_and_keep_no_other_privilege() -> None:
    # The list of who holds what moves with --root-dir (getPodResourcesDir in pkg/kubelet/kubelet_getters.go); where plugins register is
    # the constant pluginapi.KubeletSocket (NewManagerImpl in pkg/kubelet/cm/devicemanager/manager.go; both as of Kubernetes 1.36.1).
    manifests = rendered(ON, "devicePlugin.kubeletFolder=/data/kubelet")
    pod, container = pod_of(manifests), container_of(manifests)
    folders = {volume["name"]: volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume}
    mounts = {mount["name"]: (mount["mountPath"], mount.get("readOnly", False)) for mount in container["volumeMounts"]}
    assert folders == {
        "device-plugins": "/var/lib/kubelet/device-plugins",
        "pod-resources": "/data/kubelet/pod-resources",
        "devices": "/dev",
    }
    assert mounts == {
        "device-plugins": ("/var/lib/kubelet/device-plugins", False),
        "pod-resources": ("/var/lib/kubelet/pod-resources", True),
        "devices": ("/dev", True),
        "tmp": ("/tmp", False),
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()


def test_should_not_look_at_the_devices_of_a_node_whose_devices_are_simulated() -> None:
    manifests = rendered(ON, "devicePlugin.source=simulated")
    assert "devices" not in {volume["name"] for volume in pod_of(manifests)["volumes"]}
    assert "devices" not in {mount["name"] for mount in container_of(manifests)["volumeMounts"]}


def test_should_read_the_file_of_what_is_out_from_the_node_and_write_nothing_there() -> None:
    manifests = rendered(ON, "devicePlugin.unhealthyFile=/etc/fleetpack/out of order")
    pod, container = pod_of(manifests), container_of(manifests)
    assert "--unhealthy-file=/var/lib/fleetpack/unhealthy/out of order" in container["args"]
    assert [volume for volume in pod["volumes"] if volume["name"] == "unhealthy"] == [
        {"name": "unhealthy", "hostPath": {"path": "/etc/fleetpack", "type": "DirectoryOrCreate"}}
    ]
    assert [mount for mount in container["volumeMounts"] if mount["name"] == "unhealthy"] == [
        {"name": "unhealthy", "mountPath": "/var/lib/fleetpack/unhealthy", "readOnly": True}
    ]


def test_should_look_at_no_file_of_what_is_out_unless_told() -> None:
    manifests = rendered(ON)
    assert not [argument for argument in container_of(manifests)["args"] if "unhealthy" in argument]
    assert "unhealthy" not in {volume["name"] for volume in pod_of(manifests)["volumes"]}


@pytest.mark.parametrize("path", ["unhealthy", "/unhealthy", "/etc/fleetpack/"])
def test_should_refuse_a_file_whose_folder_is_the_nodes_root_or_unknown(path: str) -> None:
    result = template(ON, f"devicePlugin.unhealthyFile={path}")
    assert result.returncode != 0
    assert "unhealthyFile" in result.stderr


def test_should_run_on_every_machine_of_the_catalog_that_has_cores_to_give() -> None:
    catalog = load_catalog()
    neuron = {
        name
        for name, machine in catalog.instance_types.items()
        if "aws.amazon.com/neuroncore" in catalog.accelerators[machine.accelerator].resource_names
    }
    required = pod_of(rendered(ON))["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    by_type, by_label = required["nodeSelectorTerms"]
    label = "fleetpack.dev/device-plugin"
    [types, keep_off, auto_mode] = by_type["matchExpressions"]
    assert (types["key"], types["operator"], set(types["values"])) == ("node.kubernetes.io/instance-type", "In", neuron)
    assert keep_off == {"key": label, "operator": "NotIn", "values": ["false"]}
    # AWS documents the label (EKS User Guide, "Control if a workload is deployed on EKS Auto Mode nodes"), and that Auto Mode has
    # plugins of its own ("Deploy an accelerated workload"). Who labels such a node for fleetpack's plugin gets it.
    assert auto_mode == {"key": "eks.amazonaws.com/compute-type", "operator": "NotIn", "values": ["auto"]}
    assert by_label == {"matchExpressions": [{"key": label, "operator": "In", "values": ["true"]}]}


def test_should_keep_the_operators_namespace_restricted_by_living_in_another() -> None:
    manifests = rendered(ON, "devicePlugin.namespace=accelerators", "devicePlugin.createNamespace=true")
    [namespace] = of_kind(manifests, "Namespace")
    assert namespace["metadata"]["name"] == "accelerators"
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"
    own = [item for item in manifests if item["metadata"]["name"] == PLUGIN and "namespace" in item["metadata"]]
    assert {item["metadata"]["namespace"] for item in own} == {"accelerators"}
    operators = the(manifests, "Deployment")["metadata"]["namespace"]
    assert operators == NAMESPACE


def test_should_refuse_to_make_the_namespace_that_the_release_lives_in() -> None:
    result = template(ON, "devicePlugin.createNamespace=true")
    assert result.returncode != 0
    assert "set devicePlugin.namespace to a namespace other than the release's" in result.stderr


@pytest.mark.parametrize(
    ("settings", "image"),
    [
        ((), "fleetpack:0.1.0"),
        (("image.repository=example/all", "image.tag=v2"), "example/all:v2"),
        (("devicePlugin.image.repository=example/plugin",), "example/plugin:0.1.0"),
        (("image.digest=sha256:" + "a" * 64,), "fleetpack@sha256:" + "a" * 64),
        (("image.digest=sha256:" + "a" * 64, "devicePlugin.image.tag=v3"), "fleetpack:v3"),
        (("devicePlugin.image.digest=sha256:" + "b" * 64,), "fleetpack@sha256:" + "b" * 64),
    ],
)
def test_should_take_the_operators_image_where_it_has_none_of_its_own(settings: tuple[str, ...], image: str) -> None:
    assert container_of(rendered(ON, *settings))["image"] == image
