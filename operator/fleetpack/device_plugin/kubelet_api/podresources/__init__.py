"""Generated code of the kubelet's podresources API; see `hack/generate_kubelet_stubs.py`."""
