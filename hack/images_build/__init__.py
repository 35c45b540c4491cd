"""The project's container images, built without a network from locked wheels.

Concept: everything that comes from outside is fetched first, by hash, into a cache keyed by what was asked for; then `docker build`
only unpacks. An image carries the key of its inputs as a label, so that what is up to date is not built again. `hack/images` is the
command; `building.py` is the page to read first.

Boundary: needs the `docker` program and an engine (DOCKER_HOST), for `--load` the `kind` program (KIND, else on PATH); brings
neither. Which base image is used can be said (BASE_IMAGE).

Failure: what is missing is named with the way out; a build that fails shows the end of its output and leaves the earlier image.
"""
