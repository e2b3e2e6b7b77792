# Polysem's server. The default is for a GPU box; `docker compose --profile cpu` builds it on Debian, and `--profile cuml`
# with cuML and CuPy, which search the neighbours of large neurons (docs/cuml.md).
ARG BASE=nvidia/cuda:13.0.1-base-ubuntu24.04

FROM ${BASE} AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/polysem
WORKDIR /src
COPY . .
# What is installed, with hashes: docker/requirements-….txt, which `make lock` renews.
ARG LOCK=docker/requirements-cuda.txt
# Passed to pip: for a CPU build, where its torch comes from.
ARG PIP_ARGS=
# All cores compile what pip would compile on one; the few files that are for a later Python are left as they are.
# hadolint ignore=SC2086
RUN /opt/polysem/bin/pip install --no-cache-dir --no-compile ${PIP_ARGS} --require-hashes --requirement "${LOCK}" \
    && /opt/polysem/bin/pip install --no-cache-dir --no-compile --no-index --no-deps --no-build-isolation . \
    && { /opt/polysem/bin/python -m compileall -q -q -j 0 /opt/polysem/lib || true; }

FROM ${BASE}
# Triton compiles its launchers with the C compiler and Python's headers, when the server warms up.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev python3 python3-dev \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin polysem \
    && install --directory --owner polysem --group polysem /models /indexes /corpora /cache /state \
    && chmod 700 /state
COPY --from=build /opt/polysem /opt/polysem
# All that is written goes to these folders and /tmp; the rest may be read-only.
ENV PATH=/opt/polysem/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/models \
    POLYSEM_CACHE_DIR=/cache \
    NUMBA_CACHE_DIR=/cache/numba \
    TRITON_CACHE_DIR=/cache/triton \
    CUPY_CACHE_DIR=/cache/cupy \
    POLYSEM_STATE=/state
USER 10001:10001
EXPOSE 50051 9464
HEALTHCHECK --interval=10s --timeout=10s --start-period=10m --retries=3 CMD ["polysem", "health"]
ENTRYPOINT ["polysem"]
CMD ["serve"]
