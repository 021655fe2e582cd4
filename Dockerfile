ARG PYTHON_IMAGE=python:3.12-slim

# Everything that needs pip stays in this stage.
FROM ${PYTHON_IMAGE} AS build
COPY requirements.lock /build/requirements.lock
RUN python -m venv /opt/gateway \
 && /opt/gateway/bin/pip install --no-cache-dir --disable-pip-version-check --only-binary=:all: --require-hashes \
      -r /build/requirements.lock \
 && /opt/gateway/bin/pip uninstall --yes pip

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="bybit-gateway" \
      org.opencontainers.image.description="A sidecar reverse-proxy gateway for Bybit" \
      org.opencontainers.image.licenses="MIT"
ENV PATH=/opt/gateway/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    GATEWAY__LISTEN__PORT=8080
COPY --from=build /opt/gateway /opt/gateway
WORKDIR /app
COPY policies policies
COPY proxy proxy
COPY config.yaml config.yaml
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['GATEWAY__LISTEN__PORT'] + '/health/live', timeout=2)"]
ENTRYPOINT ["python", "-m", "proxy"]
CMD ["run", "--config", "config.yaml"]
