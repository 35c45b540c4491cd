"""Where replicas go: which cores of which node, which nodes to launch, which to give back.

`topology` knows which sets of cores may serve one replica, `fit` which nodes can take it and why the others cannot,
`fragmentation` what a choice costs the future, `pack` chooses, `consolidation` finds what is no longer needed. Pure functions
of frozen values: every order is total, and no result depends on the order of the input's nodes or Pods.
"""
