# The server: TorchServe, serving what a release document names (scripts/serving/serve.py). No model is in it; one image serves any.
#
#   docker build -t seefood .              or `make image`
#   docker run -e SEEFOOD_RELEASE=s3://bucket/release.json -p 8080:8080 seefood
#
# Other targets: `dev`, the devcontainer's, and `tools`, the laptop's MLflow and S3 (docker-compose.yml). Three optional build
# secrets serve networks with a mirror or certificates of their own: pip_conf, uv_conf (a uv.toml) and ca_bundle.
# The base image: a tag, or better a digest, which cannot come to mean another one: debian:bookworm-slim@sha256:...
# `make image` writes the digest that a tag stood for into the image's label org.opencontainers.image.base.digest.
ARG BASE_IMAGE=debian:bookworm-slim
ARG BASE_DIGEST=unknown

# --- what every stage has ---
FROM ${BASE_IMAGE} AS base
# procps: TorchServe runs `kill` for a worker that has not ended yet; without it a version can then not be unloaded
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates procps python3 tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/*
ENV PYTHONUNBUFFERED=1

# --- uv, which installs: it stays behind here ---
FROM base AS installer
RUN apt-get update && apt-get install --yes --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*
ENV UV_NATIVE_TLS=1 UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy PIP_CERT=/etc/ssl/certs/ca-certificates.crt
WORKDIR /opt/seefood
COPY pyproject.toml uv.lock scripts/install.py ./
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca_bundle,target=/etc/ssl/certs/ca-certificates.crt \
    python3 -c 'from install import pinned; print(pinned("uv"))' > uv.txt && python3 -m venv /opt/installer \
    && /opt/installer/bin/pip install --no-cache-dir --no-deps --require-hashes -r uv.txt \
    && python3 -m venv --without-pip /opt/venv
ENV VIRTUAL_ENV=/opt/venv PATH=/opt/installer/bin:$PATH
# uv.lock as requirements with hashes: `uv sync` would fetch the very addresses in it, past any mirror
ENV EXPORT="uv export --frozen --quiet --no-emit-project --no-annotate --no-header"

# --- the server's packages: no compiler, no training, no torchvision ---
FROM installer AS packages
RUN --mount=type=secret,id=uv_conf,target=/etc/uv/uv.toml \
    --mount=type=secret,id=ca_bundle,target=/etc/ssl/certs/ca-certificates.crt \
    $EXPORT --extra serve --extra image --extra tracing > serve.txt && uv pip install --require-hashes -r serve.txt
# torch, for archives that `make archive FORMAT=torch` packed: cpu, a CUDA version as PyTorch writes it (cu130), or none.
ARG TORCH=cpu
# another version than uv.lock names, with the checksum of its wheel: 2.13.0@sha256:... Without one, this wheel alone is not
# compared with a checksum of ours: PyTorch's builds for the CPU are not on the index that uv.lock names.
ARG TORCH_VERSION=
# another index than PyTorch's own for that kind of build
ARG TORCH_INDEX=
RUN --mount=type=secret,id=uv_conf,target=/etc/uv/uv.toml \
    --mount=type=secret,id=ca_bundle,target=/etc/ssl/certs/ca-certificates.crt \
    if [ "${TORCH}" != none ]; then \
        $EXPORT --all-extras | sed -e ':a' -e '/\\$/{N;s/\\\n *//;ba' -e '}' > all.txt && grep -v '^torch==' all.txt > others.txt \
        && pinned="$(sed -n 's/^torch==\([^ ;]*\).*/\1/p' all.txt)" && version="${TORCH_VERSION:-$pinned}" \
        && echo "torch==${version%%@*}$(echo "${version}" | sed -n 's/[^@]*@/ --hash=/p')" > torch.txt \
        && uv pip install -c others.txt -r torch.txt \
            $(if [ -n "${TORCH_INDEX}" ]; then echo "--index ${TORCH_INDEX}"; else echo "--torch-backend ${TORCH}"; fi) \
        && cd /opt/venv/lib/python3*/site-packages/torch && rm -rf test include bin/test_* bin/protoc*; \
    fi

# --- the server ---
FROM base AS server
COPY --from=packages /opt/venv /opt/venv
COPY config.properties /opt/seefood/
COPY handler /opt/seefood/handler
COPY scripts /opt/seefood/scripts
COPY web /opt/seefood/web
# serve.py takes this out of TorchServe's environment: the workers run the handler of the archive, never this one
ENV PYTHONPATH=/opt/seefood PYTHONDONTWRITEBYTECODE=1 PATH=/opt/venv/bin:$PATH
# The library of TorchServe's Unix sockets: where the container runs, no folder that can be written to may hold programs.
# And the archive of the front end's classes that Java maps at each start, which saves half of the CPU that its start takes. Where
# none can be made, as Java may fail under emulation, the image does without.
RUN python3 -m compileall -q /opt/seefood \
    && python3 -c 'from scripts.backend.torchserve import native; native.take_out(native.prepared_folder())' \
    && { python3 -P -m scripts.backend.torchserve.class_data --image || echo "no archive of Java's classes: starts take longer"; }
ARG VERSION=0.0.0
ARG COMMIT=unknown
# make preflight compares it with the deployment
ARG TORCH=cpu
ARG BASE_IMAGE
ARG BASE_DIGEST
LABEL org.opencontainers.image.title=seefood \
      org.opencontainers.image.version=${VERSION} \
      org.opencontainers.image.revision=${COMMIT} \
      org.opencontainers.image.base.name=${BASE_IMAGE} \
      org.opencontainers.image.base.digest=${BASE_DIGEST} \
      seefood.torch=${TORCH}
USER 10001:10001
EXPOSE 8080
# all that is written: unpacked models, logs. Any other folder may be read-only.
WORKDIR /tmp
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-P", "-m", "scripts.serving.healthcheck"]
# tini reaps what TorchServe leaves behind, and hands signals on to serve.py, which drains
ENTRYPOINT ["tini", "--", "python", "-P", "-m", "scripts.serving.serve", "--host", "0.0.0.0", "--run-dir", "/tmp/seefood"]

# --- a laptop's MLflow and S3, for docker-compose.yml ---
FROM installer AS tools
RUN --mount=type=secret,id=uv_conf,target=/etc/uv/uv.toml \
    --mount=type=secret,id=ca_bundle,target=/etc/ssl/certs/ca-certificates.crt \
    $EXPORT --only-group tools > tools.txt && uv pip install --require-hashes -r tools.txt \
    && install --directory --owner 10001 --group 10001 /data
ENV PATH=/opt/venv/bin:$PATH
USER 10001:10001
WORKDIR /tmp

# --- what the server is made of, for `make sbom` ---
FROM packages AS audit
COPY scripts /opt/seefood/scripts
ARG BASE_IMAGE
ARG BASE_DIGEST
RUN /opt/venv/bin/python -m scripts.audit.sbom --out /sbom/sbom.cdx.json --base "${BASE_IMAGE} ${BASE_DIGEST}"
FROM scratch AS sbom
COPY --from=audit /sbom /

# --- the devcontainer: `make setup` does the rest ---
FROM base AS dev
RUN apt-get update \
    && apt-get install --yes --no-install-recommends curl git make python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 --shell /bin/bash dev
USER dev

# what `docker build .` makes
FROM server
