# syntax=docker/dockerfile:1
# TimeChat's server on a CPU, see docs/docker.md. Dockerfile.cuda is the variant for GPUs; tests/test_docker.py compares the two.

FROM python:3.11-slim-bookworm AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /build
RUN python -m venv /opt/timechat
ENV PATH=/opt/timechat/bin:$PATH
COPY pyproject.toml setup.py constraints.txt README.md LICENSE ./
COPY src ./src
COPY recipes ./recipes
# This index has PyTorch without CUDA, which is gigabytes smaller. Everything else comes from PyPI.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --disable-pip-version-check --extra-index-url https://download.pytorch.org/whl/cpu \
        -c constraints.txt ".[server]"

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="TimeChat" \
      org.opencontainers.image.description="Answers about long videos: an HTTP server with a page, on CPUs." \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 timechat \
    && useradd --uid 10001 --gid timechat --home-dir /data --no-create-home --shell /usr/sbin/nologin timechat \
    && install --directory --owner=timechat --group=timechat --mode=0750 /data \
    && install --directory --mode=0755 /videos
COPY LICENSE LICENSE-WEIGHTS.md /usr/share/doc/timechat/
COPY --from=build /opt/timechat /opt/timechat
# All files are written to /data, so the root file system may be read-only.
ENV PATH=/opt/timechat/bin:$PATH \
    HOME=/data \
    HF_HOME=/data/huggingface \
    TIMECHAT_CACHE=/data/cache \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /data
VOLUME ["/data", "/videos"]
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["timechat"]
CMD ["serve", "--host", "0.0.0.0", "--allow", "/videos", "--data", "/data"]
