"""nginx as it is set up here: as the exchange that answers from files, as a cache, and as a plain proxy.

One worker each, like the gateway's one process. The contenders keep a JSON line for every request and check a limit
that never binds, because the gateway does both.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from bench import answers

_LOG_FORMAT: Final = (
    '{"time":"$time_iso8601","id":"$request_id","method":"$request_method","uri":"$uri","ip":"$remote_addr",'
    '"status":$status,"took_s":$request_time,"bytes":$body_bytes_sent,"cache":"$upstream_cache_status"}'
)

_COMMON: Final = """\
{user}
worker_processes 1;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log error;
events {{ worker_connections 1024; }}
http {{
  default_type application/json;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  sendfile on;
  tcp_nopush on;
  keepalive_timeout 600s;
  keepalive_requests 1000000000;
{http}
}}
"""

_EXCHANGE: Final = """\
  access_log off;
  etag off;
  if_modified_since off;
  max_ranges 0;
  open_file_cache max=10 inactive=1h;
  open_file_cache_valid 1h;
  server {{
    listen 127.0.0.1:{port} backlog=1024;
{headers}
    location = {kline} {{ alias {directory}/kline.json; }}
    location = {tickers} {{ alias {directory}/tickers.json; }}
  }}"""

_CONTENDER: Final = """\
  log_format request escape=json '{log_format}';
  access_log {directory}/access.log request buffer=64k flush=1s;
  limit_req_zone $binary_remote_addr zone=per_ip:10m rate=1000000r/s;
  limit_req zone=per_ip burst=1000000 nodelay;
  upstream exchange {{
    server 127.0.0.1:{upstream_port};
    keepalive 100;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
  }}
{cache}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{
      proxy_pass http://exchange;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
{cached}
    }}
  }}"""

_CACHE: Final = """\
  proxy_cache_path {directory}/cache levels=1:2 keys_zone=klines:10m max_size=64m inactive=7d use_temp_path=off;"""

_KEPT_OPEN: Final = """
  open_file_cache max=1000 inactive=1h;
  open_file_cache_valid 1h;"""

_CACHED: Final = """\
      proxy_cache klines;
      proxy_cache_valid 200 7d;
      proxy_cache_lock on;
      proxy_ignore_headers Cache-Control Expires Set-Cookie Vary;
      add_header Cache-Status "nginx; $upstream_cache_status";"""


def write_exchange(directory: Path, port: int) -> Path:
    """The stand-in for the exchange: fixed answers from files that stay open, so that it is nobody's bottleneck."""
    (directory / "kline.json").write_bytes(answers.kline())
    (directory / "tickers.json").write_bytes(answers.tickers())
    pairs = {**answers.HEADERS, "Last-Modified": ""}  # an empty value leaves the line out
    headers = "\n".join(f'    add_header {name} "{value}";' for name, value in pairs.items())
    http = _EXCHANGE.format(
        directory=directory,
        port=port,
        headers=headers,
        kline=answers.KLINE_PATH,
        tickers=answers.TICKERS_PATH,
    )
    return _write(directory, http)


def write_proxy(
    directory: Path, port: int, upstream_port: int, *, cache: bool = False, kept_open: bool = False
) -> Path:
    """A contender: passes everything on over kept connections, or answers from its cache.

    `kept_open`: the cache's files stay open between requests, which nginx does only when told.
    """
    caching = _CACHE.format(directory=directory) + (_KEPT_OPEN if kept_open else "")
    http = _CONTENDER.format(
        directory=directory,
        port=port,
        upstream_port=upstream_port,
        log_format=_LOG_FORMAT,
        cache=caching if cache else "",
        cached=_CACHED if cache else "",
    )
    return _write(directory, http)


def _write(directory: Path, http: str) -> Path:
    # A worker of a master that runs as root changes to another user, who could not read a private directory.
    user = "user root root;" if os.geteuid() == 0 else ""
    file = directory / "nginx.conf"
    file.write_text(_COMMON.format(user=user, directory=directory, http=http), encoding="utf-8")
    return file
