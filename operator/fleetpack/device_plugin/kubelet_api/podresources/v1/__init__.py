"""Generated code of the kubelet's podresources v1 API; see `hack/generate_kubelet_stubs.py`."""
