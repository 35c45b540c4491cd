"""A TCP server on loopback that does exactly what a test says, for answers that no real server would give.

Concept: one function per connection gets reader and writer and may answer, stall, or hang up in the middle. `http_answer` makes
the bytes of a whole answer. Boundary: understands no HTTP itself. All connections are ended when the context closes.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

Conversation = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def http_answer(body: str | bytes, status: str = "200 OK", *, headers: str = "", length: int | None = None) -> bytes:
    """Return a whole answer; `length` claims another length than the body has."""
    content = body.encode() if isinstance(body, str) else body
    length = len(content) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}\r\n".encode() + content


def always(answer: bytes, *, then_hang_up: bool = False) -> Conversation:
    """Give this answer to each request of a connection."""

    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(answer)
            await writer.drain()
            if then_hang_up:
                return

    return conversation


async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take the request and say nothing."""
    del writer
    await reader.read()


@asynccontextmanager
async def scripted_server(conversation: Conversation, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """Serve while the context is open; gives the port."""
    connections: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                await conversation(reader, writer)
        finally:
            connections.discard(task)
            writer.close()

    server = await asyncio.start_server(handle, host, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
