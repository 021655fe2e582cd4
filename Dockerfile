# Any image with Python 3.11 to 3.13 in /usr/local and Debian's libraries: --build-arg PYTHON_IMAGE=python:3.12-slim@sha256:...
ARG PYTHON_IMAGE=python:3.12-slim

# Everything that needs pip stays in this stage.
FROM ${PYTHON_IMAGE} AS build
# Where packages come from another index than the usual one.
ARG PIP_INDEX_URL
COPY requirements-image.lock /build/requirements-image.lock
# Without the tests of libraries, and without a second build of zstandard, which only PyPy uses.
RUN python -m venv --without-pip /opt/gateway \
 && pip --python /opt/gateway/bin/python install --no-cache-dir --no-compile --disable-pip-version-check \
      --only-binary=:all: --require-hashes -r /build/requirements-image.lock \
 && find /opt/gateway/lib -depth -type d \( -name tests -o -name testdata \) -exec rm -rf {} + \
 && rm -f /opt/gateway/lib/python3*/site-packages/zstandard/_cffi.*
COPY policies /app/policies
COPY proxy /app/proxy
COPY config.yaml LICENSE NOTICE /app/
# The root file system is read-only later. By the hash of its source, bytecode holds whatever becomes of the time stamps,
# and not for a file that somebody replaces.
RUN python -m compileall -q --invalidation-mode checked-hash /opt/gateway/lib /app

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="bybit-gateway" \
      org.opencontainers.image.description="A sidecar reverse-proxy gateway for Bybit" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT"
ENV PATH=/opt/gateway/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    GATEWAY_CONFIG=/app/config.yaml \
    XDG_STATE_HOME=/var/lib/bybit-gateway
COPY --from=build /opt/gateway /opt/gateway
COPY --from=build /app /app
WORKDIR /app
# Python's own library comes without bytecode in the official images: importing everything once leaves what is needed.
# The volume is writable for the group 0, in which Docker and OpenShift put users that the image does not know.
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/site-packages/pip* /usr/local/lib/python3*/ensurepip \
 && PYTHONDONTWRITEBYTECODE='' python -c 'import asyncpg, encodings.ascii, encodings.idna, \
      proxy.__main__, proxy.alive, proxy.tokens, proxy.tracing' \
 && install -d -m 0770 -o 10001 -g 0 /var/lib/bybit-gateway
VOLUME /var/lib/bybit-gateway
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-m", "proxy.alive"]
ENTRYPOINT ["python", "-m", "proxy"]
CMD ["run"]
