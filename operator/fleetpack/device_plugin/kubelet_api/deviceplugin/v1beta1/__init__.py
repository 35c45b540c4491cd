"""Generated code of the kubelet's deviceplugin v1beta1 API; see `hack/generate_kubelet_stubs.py`."""
