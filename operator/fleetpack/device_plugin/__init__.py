"""The kubelet device plugin: gives replicas exactly the cores that were planned, and tells what the kubelet really gave.

The kubelet hands out devices by number, not by place, and tells a plugin neither Pod nor plan. So the plugin steers: asked which
devices it prefers, it answers with the planned cores of the Pod that must be meant; asked to allocate, it refuses what no
replica could run on; and from the kubelet's own list of who holds what it writes the truth back to the Pods, where the planner
reads it.

`silicon`, `choosing`, `accounts`, `comparison` and `health` decide, on values alone; `plugin` holds the state between them and the
outside: `kubelet_server` and `registration` (gRPC), `pod_resources`, `node_pods` (API server), `sources` (devices), `process`.

Failure: without the API server it still gives legal ranges, and the kubelet's accounting of its own resource always wins. It never
gives one chip out through both resources; where it cannot know, it refuses and says why in the Pod's own status.
"""
