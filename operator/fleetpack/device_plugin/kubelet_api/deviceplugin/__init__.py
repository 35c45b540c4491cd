"""Generated code of the kubelet's deviceplugin API; see `hack/generate_kubelet_stubs.py`."""
