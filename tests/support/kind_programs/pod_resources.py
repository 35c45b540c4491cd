"""Runs in the device plugin's container and prints, as JSON, which cores the node's kubelet says that each Pod holds.

Boundary: uses the kubelet's PodResources protocol and the generated stubs, and none of the plugin's own code. Failure: ends with gRPC's
error where the kubelet does not answer.
"""

import json

import grpc

from fleetpack.device_plugin.kubelet_api.podresources.v1 import api_pb2, api_pb2_grpc

held = {}
with grpc.insecure_channel("unix:///var/lib/kubelet/pod-resources/kubelet.sock") as channel:
    answer = api_pb2_grpc.PodResourcesListerStub(channel).List(api_pb2.ListPodResourcesRequest(), timeout=5)
for pod in answer.pod_resources:
    for container in pod.containers:
        for devices in container.devices:
            if devices.resource_name == "aws.amazon.com/neuroncore":
                # The plugin names a core `neuroncore-8`.
                cores = [int(name.rpartition("-")[2]) for name in devices.device_ids]
                held.setdefault(f"{pod.namespace}/{pod.name}", []).extend(cores)
print(json.dumps({name: sorted(cores) for name, cores in held.items()}))
