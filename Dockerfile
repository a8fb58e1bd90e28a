# Image of mbkd for training, sweeps, prediction and serving. Run in the checkout:
#
#   docker build -t mbkd:cuda .
#   docker build -t mbkd:cpu --build-arg TORCH_INDEX=... .      # the index of CPU builds that pytorch.org names
#   docker run --rm --gpus all --shm-size=1g -v "$PWD:/mbkd" mbkd:cuda train tickets.yaml
#   docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/runs:/mbkd/runs:ro" mbkd:cpu serve runs/... --host 0.0.0.0
#
# torch contains CUDA's libraries, so one base image serves both. mbkd compiles nothing at run time.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
# Empty: the default index, which has the CUDA build for Linux on x86-64.
ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /opt/mbkd
# The large layer is first: it stays cached when only the code changes.
COPY constraints.txt ./
RUN pip install --constraint constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
COPY . .
# ray[default]: KubeRay starts jobs through Ray's dashboard.
RUN pip install --constraint constraints.txt ".[serve,search,report]" "ray[default]"

FROM python:${PYTHON}-slim
# KubeRay's probes call wget (kuberay #2063). The user is numeric: Kubernetes can check that it is not root.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home mbkd \
    && install --directory --owner=mbkd /mbkd
COPY --from=build /opt/venv /opt/venv
# tuning, analysis and launchers run from the checkout.
COPY --from=build /opt/mbkd /opt/mbkd
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/opt/mbkd PYTHONUNBUFFERED=1
USER 1000
WORKDIR /mbkd
ENTRYPOINT ["mbkd"]
CMD ["--help"]
