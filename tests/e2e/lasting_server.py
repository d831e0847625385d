"""A service whose answers may take as long as they are told to, and which takes WebSockets.

GET /drip?N answers with N lines, one every tenth of a second; an upgrade is answered with every
byte that comes; any other GET at once, with this process's id.
"""

import asyncio
import os


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection to its end."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            path = head.split(" ", 2)[1]
            if "\r\nupgrade:" in head.lower():
                await echo(reader, writer)
                return
            if path.startswith("/drip?"):
                await drip(writer, int(path.partition("?")[2]))
            else:
                body = str(os.getpid()).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        return
    finally:
        writer.close()


async def drip(writer: asyncio.StreamWriter, lines: int) -> None:
    """Answer slowly."""
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for number in range(lines):
        line = b"%d\n" % number
        writer.write(b"%x\r\n%b\r\n" % (len(line), line))
        await writer.drain()
        await asyncio.sleep(0.1)
    writer.write(b"0\r\n\r\n")


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with what comes."""
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    while data := await reader.read(4096):
        writer.write(data)
        await writer.drain()


async def main() -> None:
    """Serve until killed."""
    server = await asyncio.start_server(serve, "127.0.0.1", int(os.environ["SERVICE_PORT"]))
    await server.serve_forever()


asyncio.run(main())
