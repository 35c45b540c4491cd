"""Registers a resource with a node's kubelet as another vendor's plugin would: `rival_plugin.py RESOURCE DEVICE...`.

It offers these devices on a socket of its own and prints `registered` once the kubelet has taken the list. Each line on standard input
makes it send the same list again, and print `sent`; it ends with its standard input. Boundary: the protocol only; what the kubelet
makes of it is for the test to see. Failure: a kubelet that refuses ends it with the kubelet's words, one that does not listen for ten
seconds with `queue.Empty`.
"""

import queue
import sys
from concurrent import futures
from pathlib import Path

import grpc

from fleetpack.device_plugin.kubelet_api.deviceplugin.v1beta1 import api_pb2, api_pb2_grpc

FOLDER = Path("/var/lib/kubelet/device-plugins")
NAME = "rival.sock"
resource, *devices = sys.argv[1:]
go_on, sent = queue.SimpleQueue(), queue.SimpleQueue()


class Rival(api_pb2_grpc.DevicePluginServicer):
    def GetDevicePluginOptions(self, request, context):  # noqa: N802 (the protocol's name)
        return api_pb2.DevicePluginOptions()

    def ListAndWatch(self, request, context):  # noqa: N802 (the protocol's name)
        listed = [api_pb2.Device(ID=device, health="Healthy") for device in devices]
        more = True
        while more:
            yield api_pb2.ListAndWatchResponse(devices=listed)
            # gRPC asks for the next one when this one is on its way.
            sent.put("sent")
            more = go_on.get()

    def Allocate(self, request, context):  # noqa: N802 (the protocol's name)
        return api_pb2.AllocateResponse(
            container_responses=[api_pb2.ContainerAllocateResponse() for _ in request.container_requests]
        )


server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
api_pb2_grpc.add_DevicePluginServicer_to_server(Rival(), server)
server.add_insecure_port(f"unix://{FOLDER / NAME}")
server.start()
try:
    with grpc.insecure_channel(f"unix://{FOLDER / 'kubelet.sock'}") as channel:
        request = api_pb2.RegisterRequest(version="v1beta1", endpoint=NAME, resource_name=resource)
        api_pb2_grpc.RegistrationStub(channel).Register(request, timeout=15)
    sent.get(timeout=10)
    print("registered", flush=True)
    for _ in sys.stdin:
        go_on.put(True)
        print(sent.get(timeout=10), flush=True)
finally:
    go_on.put(False)
    server.stop(None).wait()
    (FOLDER / NAME).unlink(missing_ok=True)
