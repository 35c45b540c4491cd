"""Carries connections from a port of this machine into the own engine's network, where kind publishes the API server.

Concept: a socket belongs to the network in which it was made. The one that listens is made here and handed to a process that then
steps into the engine's network namespace (`nsenter`), from where it connects: `python forwarding.py DESCRIPTOR PORT`.
Boundary: bytes of 127.0.0.1, both ways, half-closed as the peers do it; it knows nothing of TLS. Failure: a connection that cannot
be made inside is closed; the process ends with the namespace's engine only when it is told to.
"""

import asyncio
import contextlib
import socket
import sys

CHUNK_BYTES = 65536


async def serve(listening: socket.socket, port: int) -> None:
    """Forward every connection to 127.0.0.1:port until cancelled."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))
        for end in (writer, inner_writer):
            end.close()

    server = await asyncio.start_server(handle, sock=listening)
    async with server:
        await server.serve_forever()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        return
    # The other direction would wait for ever for a peer that has gone.
    writer.transport.abort()


if __name__ == "__main__":
    descriptor, inner_port = (int(word) for word in sys.argv[1:3])
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(socket.socket(fileno=descriptor), inner_port))
