"""Registers a resource with a node's kubelet as another vendor's plugin would: `rival_plugin.py RESOURCE SECONDS`.

It offers two devices of its own naming on a socket of its own, prints `registered`, and ends after so many seconds. Boundary: the
protocol only; what the kubelet makes of two plugins for one resource is for the test to see. Failure: a kubelet that refuses ends it
with the kubelet's words.
"""

import sys
import threading
from concurrent import futures
from pathlib import Path

import grpc

from fleetpack.device_plugin.kubelet_api.deviceplugin.v1beta1 import api_pb2, api_pb2_grpc

FOLDER = Path("/var/lib/kubelet/device-plugins")
NAME = "rival.sock"
resource, seconds = sys.argv[1], float(sys.argv[2])
ended = threading.Event()


class Rival(api_pb2_grpc.DevicePluginServicer):
    def GetDevicePluginOptions(self, request, context):  # noqa: N802 (the protocol's name)
        return api_pb2.DevicePluginOptions()

    def ListAndWatch(self, request, context):  # noqa: N802 (the protocol's name)
        yield api_pb2.ListAndWatchResponse(
            devices=[api_pb2.Device(ID=f"rival-{number}", health="Healthy") for number in range(2)]
        )
        ended.wait()

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
    print("registered", flush=True)
    ended.wait(seconds)
finally:
    ended.set()
    server.stop(None).wait()
    (FOLDER / NAME).unlink(missing_ok=True)
