"""A real Kubernetes control plane on one machine, without root, containers or a registry of images.

Concept: five programs on loopback (etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kwok, which plays
the kubelets of simulated Nodes) with TLS and RBAC on, one state folder per cluster, many clusters side by side.
`hack/cluster` is the command; `cluster.py` is the page to read first.

Boundary: nothing here knows the operator. Development only: the certificate authority's key lies in the state folder,
and etcd does not wait for the disk.

Failure: what is missing is named with the way out; a start that fails takes its own processes down again and shows the
end of the log that matters. Processes are ended only by recorded id and start time.
"""
