"""Runs in a test's Pod on a node and tells what its kubelet says: PodResources and the checkpoint of the device manager.

Concept: `GET /now` reads both at once; a thread reads them four times a second and keeps each reading that differs from the one
before, which `GET /history` returns. Where a reading gives a device to two containers it is read again, for a quarter of a
second, before it is kept: the kubelet makes its list container by container, and a device may change hands meanwhile.
`GET /counted` says which healthy devices the kubelet counts, given out or not.
Boundary: uses the kubelet's protocol only. Failure: a kubelet that does not answer is an entry of its own, not an empty list.
"""

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc

from fleetpack.device_plugin.kubelet_api.deviceplugin.v1beta1 import api_pb2 as plugin_pb2
from fleetpack.device_plugin.kubelet_api.podresources.v1 import api_pb2, api_pb2_grpc

SOCKET = "unix:///var/lib/kubelet/pod-resources/kubelet.sock"
CHECKPOINT = Path("/var/lib/kubelet/device-plugins/kubelet_internal_checkpoint")
PERIOD_SECONDS = 0.25
TRIES = 5
PAUSE_SECONDS = 0.05
history = []


def pod_resources():
    with grpc.insecure_channel(SOCKET) as channel:
        answer = api_pb2_grpc.PodResourcesListerStub(channel).List(api_pb2.ListPodResourcesRequest(), timeout=3)
    found = {}
    for pod in answer.pod_resources:
        for container in pod.containers:
            for devices in container.devices:
                if devices.resource_name.startswith("aws.amazon.com/"):
                    key = f"{pod.namespace}/{pod.name}/{container.name}/{devices.resource_name}"
                    found.setdefault(key, []).extend(devices.device_ids)
    return {key: sorted(ids) for key, ids in sorted(found.items())}


def counted():
    with grpc.insecure_channel(SOCKET) as channel:
        stub = api_pb2_grpc.PodResourcesListerStub(channel)
        answer = stub.GetAllocatableResources(api_pb2.AllocatableResourcesRequest(), timeout=3)
    found = {}
    for devices in answer.devices:
        found.setdefault(devices.resource_name, []).extend(devices.device_ids)
    return {resource: sorted(ids) for resource, ids in found.items()}


def checkpoint():
    entries = json.loads(CHECKPOINT.read_text())["Data"]["PodDeviceEntries"] or []
    found = {}
    for entry in entries:
        ids = sorted(one for ids in entry["DeviceIDs"].values() for one in ids)
        answer = plugin_pb2.ContainerAllocateResponse.FromString(base64.b64decode(entry["AllocResp"] or ""))
        key = f"{entry['PodUID']}/{entry['ContainerName']}/{entry['ResourceName']}"
        found[key] = {"ids": ids, "visible": answer.envs.get("NEURON_RT_VISIBLE_CORES", "")}
    return dict(sorted(found.items()))


def has_twice(listed):
    ids = [one for found in listed.values() for one in found]
    return len(ids) != len(set(ids))


def read():
    listed = error = None
    try:
        listed = pod_resources()
        for _ in range(TRIES):
            if not has_twice(listed):
                break
            time.sleep(PAUSE_SECONDS)
            listed = pod_resources()
    except grpc.RpcError as failed:
        error = failed.code().name
    try:
        written = checkpoint()
    except (OSError, ValueError, KeyError) as failed:
        # The kubelet replaces the file; between two of its lives there may be none.
        written, error = None, f"{type(failed).__name__}: {failed}"
    return {"pod_resources": listed, "checkpoint": written, "error": error}


def watch():
    last = None
    while True:
        now = read()
        if now != last:
            history.append({"at": time.time(), **now})
            last = now
        time.sleep(PERIOD_SECONDS)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        content = {"/now": read, "/history": lambda: history, "/counted": counted}.get(self.path)
        body = json.dumps(content() if content else None).encode()
        self.send_response(200 if content else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


threading.Thread(target=watch, daemon=True).start()
ThreadingHTTPServer(("", 8099), Handler).serve_forever()
