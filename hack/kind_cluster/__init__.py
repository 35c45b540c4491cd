"""kind clusters for development and tests, and a Docker engine with a node image where none is at hand.

`clusters.py` is the page to read first: one cluster from start to end. `engine.py` finds the Docker engine; `own_engine.py` starts one;
`node_image.py` builds what its nodes run.
"""
