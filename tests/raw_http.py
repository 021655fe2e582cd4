"""HTTP without a library in between: the bytes that are sent, the bytes that come back."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field


@dataclass
class RawAnswer:
    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes
    complete: bool = True
    head: bytes = field(default=b"", repr=False)

    def get(self, name: str) -> str | None:
        for key, value in self.headers:
            if key.lower() == name.lower():
                return value
        return None

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


async def exchange_bytes(port: int, request: bytes, *, seconds: float = 10.0) -> RawAnswer:
    """Send bytes on a new connection and read one answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    try:
        writer.write(request)
        async with asyncio.timeout(seconds):
            return await read_answer(reader, has_body=not request.startswith(b"HEAD "))
    finally:
        writer.close()


async def read_answer(reader: asyncio.StreamReader, *, has_body: bool = True) -> RawAnswer:
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head[:-4].split(b"\r\n")
    _, status, reason = (lines[0] + b" ").split(b" ", 2)
    pairs = [line.split(b": ", 1) for line in lines[1:]]
    headers = [(name.decode(), value.decode("latin-1")) for name, value in pairs]
    answer = RawAnswer(int(status), reason.decode().strip(), headers, b"", head=head)
    if has_body and answer.status not in {204, 304} and answer.status >= 200:
        await _read_body(reader, answer)
    return answer


async def _read_body(reader: asyncio.StreamReader, answer: RawAnswer) -> None:
    try:
        if (answer.get("Transfer-Encoding") or "").lower() == "chunked":
            while size := int((await reader.readuntil(b"\r\n"))[:-2], 16):
                answer.body += (await reader.readexactly(size + 2))[:-2]
            await reader.readexactly(2)
        elif (length := answer.get("Content-Length")) is not None:
            answer.body = await reader.readexactly(int(length))
        else:
            answer.body = await reader.read()
    except asyncio.IncompleteReadError as error:
        answer.body += error.partial
        answer.complete = False
    except ConnectionError:
        answer.complete = False
