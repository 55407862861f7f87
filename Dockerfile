# Two images from one file: `--target operator` and `--target worker`.
# Any base with Python ≥ 3.11 and its venv module does; nothing is compiled: all dependencies come as wheels.
ARG BASE_IMAGE=python:3.13-slim

FROM ${BASE_IMAGE} AS build
WORKDIR /src
# The environment has no pip of its own: the builder's installs into it, and no installer reaches the final image.
RUN python3 -m venv /pip && python3 -m venv --without-pip /opt/greenfleet
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1

FROM build AS build-operator
COPY requirements/operator.lock ./
RUN /pip/bin/pip --python /opt/greenfleet/bin/python3 install --require-hashes --only-binary :all: -r operator.lock
COPY operator/greenfleet /tmp/greenfleet
RUN site=$(/opt/greenfleet/bin/python3 -c 'import site; print(site.getsitepackages()[0])') \
    && mv /tmp/greenfleet "$site/" && /opt/greenfleet/bin/python3 -m compileall -q -j 0 "$site" \
    && /opt/greenfleet/bin/python3 -m greenfleet --version
COPY tools/sbom.py ./
RUN version=$(/opt/greenfleet/bin/python3 -c 'import greenfleet; print(greenfleet.__version__)') \
    && /opt/greenfleet/bin/python3 sbom.py --name greenfleet-operator --version "$version" > /opt/greenfleet/sbom.cdx.json

FROM build AS build-worker
COPY requirements/worker.lock ./
RUN /pip/bin/pip --python /opt/greenfleet/bin/python3 install --require-hashes --only-binary :all: -r worker.lock
COPY worker/greenworker /tmp/greenworker
RUN site=$(/opt/greenfleet/bin/python3 -c 'import site; print(site.getsitepackages()[0])') \
    && mv /tmp/greenworker "$site/" && /opt/greenfleet/bin/python3 -m compileall -q -j 0 "$site" \
    && /opt/greenfleet/bin/python3 -c 'import greenworker'
COPY tools/sbom.py ./
RUN version=$(/opt/greenfleet/bin/python3 -c 'import greenworker; print(greenworker.__version__)') \
    && /opt/greenfleet/bin/python3 sbom.py --name greenfleet-worker --version "$version" > /opt/greenfleet/sbom.cdx.json

FROM ${BASE_IMAGE} AS runtime
ENV PATH=/opt/greenfleet/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
LABEL org.opencontainers.image.licenses=Apache-2.0
USER 65532:65532
WORKDIR /tmp

FROM runtime AS worker
LABEL org.opencontainers.image.title="Greenfleet worker and queue exporter"
COPY --from=build-worker /opt/greenfleet /opt/greenfleet
ENTRYPOINT ["python"]
CMD ["-m", "greenworker"]

FROM runtime AS operator
LABEL org.opencontainers.image.title="Greenfleet operator"
COPY --from=build-operator /opt/greenfleet /opt/greenfleet
ENTRYPOINT ["python", "-m", "greenfleet"]
CMD ["operator"]
