"""Parts of an nginx configuration, judged by nginx itself inside the smallest file that has a place for them."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path
from typing import Final

import pytest

_AROUND: Final = (
    "{}",
    "events {{}}\n{}",
    "events {{}}\nhttp {{\n{}\n}}",
    "events {{}}\nhttp {{ server {{ listen 127.0.0.1:1; \n{}\n}} }}",
    "events {{}}\nhttp {{ server {{ listen 127.0.0.1:1; location / {{\n{}\n}} }} }}",
)
_HOST: Final = re.compile(r"(?P<before>\b(?:server|proxy_pass)\s+(?:https?://)?)(?P<host>[a-z][\w-]*)(?P<port>:\d+)")
"""Names of services are found in the network of their containers, not here."""


async def judge(text: str, where: Path) -> None:
    program = shutil.which("nginx")
    if program is None:
        pytest.skip("nginx is not installed here")
    said = []
    for around in _AROUND:
        path = where / "nginx.conf"
        path.write_text(around.format(_HOST.sub(r"\g<before>127.0.0.1\g<port>", text)))
        process = await asyncio.create_subprocess_exec(
            *(program, "-t", "-q", "-e", "stderr", "-p", str(where), "-c", str(path), "-g", f"pid {where}/pid;"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        if process.returncode == 0:
            return
        said.append(output.decode(errors="replace"))
    raise AssertionError("nginx refuses this, wherever it is put:\n" + "\n".join(said))
