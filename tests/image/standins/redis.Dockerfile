# Out of the Debian that comes next, because the official image is newer than Debian 12: unpacked, not installed. A mirror
# of it may lag behind.
FROM debian:bookworm-slim AS unpacked
RUN sed -i s/bookworm/forky/g $(find /etc/apt -name "*.list" -o -name "*.sources") \
 && apt-get -qq -o Acquire::Check-Valid-Until=false update
RUN mkdir -p /debs/partial /unpacked \
 && apt-get -qq -o Dir::State::status=/dev/null -o Dir::Cache::archives=/debs install --download-only -y \
      --no-install-recommends base-files coreutils dash grep redis-server redis-tools \
 && dpkg-deb -x /debs/base-files_*.deb /unpacked \
 && for package in /debs/*.deb; do dpkg-deb -x "$package" /unpacked; done \
 && ln -sf dash /unpacked/usr/bin/sh \
 && install -d -o 999 -g 999 /unpacked/data

FROM scratch
COPY --from=unpacked /unpacked /
VOLUME /data
WORKDIR /data
CMD ["redis-server"]
