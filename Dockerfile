# The project's images, from wheels alone: nothing is downloaded while an image is built.
#
#   fleetpack          the operator, the kubelet device plugin and `helm test`
#   simulated-engine   one simulated replica that serves on the cores which it was given
#
# `hack/images` makes the folder wheels/ (the locked libraries and the project's own wheel), chooses the base image and builds.
# By hand: `hack/images wheels --output .` and then `docker build --network=none --target fleetpack .`
#
# The base is an official slim image of Debian bookworm with Python 3.11, the version that the wheels are for; add @sha256:... to
# pin it to the byte. `hack/images base` makes another of the same content where nothing can be pulled.
ARG BASE_IMAGE=python:3.11-slim-bookworm

# What no program of ours needs goes: package managers, pip, compilers' leftovers, setuid bits. The list of Debian packages
# that stay is kept (/var/lib/dpkg/status), with their licences, for those who scan images.
FROM ${BASE_IMAGE} AS slimmed
COPY hack/images_build/slim.sh /
RUN sh /slim.sh && rm /slim.sh

# One layer, in which what was removed is really absent; both images share it.
FROM scratch AS runtime
COPY --from=slimmed / /
ENV PATH=/opt/fleetpack/bin:/usr/local/bin:/usr/bin:/bin \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1
WORKDIR /
USER 65532:65532

# pip runs out of its own wheel here and comes into no image.
FROM ${BASE_IMAGE} AS installer
RUN python3 -m venv --without-pip /opt/fleetpack
COPY wheels/installer/ /wheels/installer/
RUN ln -s /wheels/installer/pip-*.whl /pip.whl
COPY wheels/libraries/ /wheels/libraries/
ENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels/libraries PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 PIP_NO_DEPS=1

FROM installer AS fleetpack-libraries
COPY wheels/fleetpack.lock /wheels/
RUN python3 /pip.whl/pip --python /opt/fleetpack/bin/python install --quiet --require-hashes -r /wheels/fleetpack.lock
# The official client's classes for every Kubernetes kind are 110 MB, loaded on use only; the operator speaks JSON and uses none.
RUN cd /opt/fleetpack/lib/python3.*/site-packages/kubernetes \
 && find client/api client/models aio/client/api aio/client/models -type f ! -name '__init__.*' -delete

FROM fleetpack-libraries AS fleetpack-program
COPY wheels/program/ /wheels/program/
RUN python3 /pip.whl/pip --python /opt/fleetpack/bin/python install --quiet --root /program /wheels/program/*.whl \
 && rm -r /program/opt/fleetpack/bin/fleetpack-sim /program/opt/fleetpack/lib/python3.*/site-packages/fleetpack_simulator

FROM runtime AS fleetpack
LABEL org.opencontainers.image.title="fleetpack" \
      org.opencontainers.image.description="The operator and the kubelet device plugin of fleetpack" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=fleetpack-libraries /opt/fleetpack /opt/fleetpack
COPY --from=fleetpack-program /program /
ENTRYPOINT ["fleetpack"]

FROM installer AS simulated-engine-libraries
COPY wheels/simulated-engine.lock /wheels/
RUN python3 /pip.whl/pip --python /opt/fleetpack/bin/python install --quiet --require-hashes -r /wheels/simulated-engine.lock

FROM simulated-engine-libraries AS simulated-engine-program
COPY wheels/program/ /wheels/program/
RUN python3 /pip.whl/pip --python /opt/fleetpack/bin/python install --quiet --root /program /wheels/program/*.whl \
 && rm /program/opt/fleetpack/bin/fleetpack

FROM runtime AS simulated-engine
LABEL org.opencontainers.image.title="fleetpack-simulated-engine" \
      org.opencontainers.image.description="A simulated inference engine behind an OpenAI-style API, on the cores that its container was given" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=simulated-engine-libraries /opt/fleetpack /opt/fleetpack
COPY --from=simulated-engine-program /program /
# A container's devices are those that the kubelet put here; a replica without them does not start.
ENV FLEETPACK_ENGINE_DEVICE_FOLDER=/dev
EXPOSE 8000
ENTRYPOINT ["fleetpack-sim"]
CMD ["serve"]
