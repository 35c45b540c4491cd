"""Calls a device plugin on its own socket as a kubelet would: `plugin_call.py RESOURCE allocate|prefer ID...`.

For `prefer` the last word says how many are wanted.

Boundary: one call, printed; decides nothing. Failure: the plugin's refusal is printed as `STATUS text`.
"""

import sys

import grpc

from fleetpack.device_plugin.kubelet_api.deviceplugin.v1beta1 import api_pb2, api_pb2_grpc

resource, call, *ids = sys.argv[1:]
with grpc.insecure_channel(f"unix:///var/lib/kubelet/device-plugins/fleetpack-{resource}.sock") as channel:
    stub = api_pb2_grpc.DevicePluginStub(channel)
    try:
        if call == "allocate":
            container = api_pb2.ContainerAllocateRequest(devices_ids=ids)
            answer = stub.Allocate(api_pb2.AllocateRequest(container_requests=[container]), timeout=10)
            print("OK", dict(answer.container_responses[0].envs))
        else:
            *available, size = ids
            question = api_pb2.ContainerPreferredAllocationRequest(
                available_deviceIDs=available, allocation_size=int(size)
            )
            answer = stub.GetPreferredAllocation(
                api_pb2.PreferredAllocationRequest(container_requests=[question]), timeout=10
            )
            print("OK", *answer.container_responses[0].deviceIDs)
    except grpc.RpcError as error:
        print(error.code().name, error.details())
