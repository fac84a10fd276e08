#!/usr/bin/env python3
"""A loopback proxy that stands for a network: it holds each request back for a time, and limits the bandwidth.

A request begins when the client sends after the server has answered, or on a new connection. The bandwidth is shared
by all connections, in each direction by itself. The bodies pass through unchanged.

Usage: slow_network.py --to PORT --delay SECONDS --rate BYTES_PER_SECOND
It prints its own port, and ends with its input.
"""

import argparse
import asyncio
import sys
import time

PIECE = 64 << 10


class Link:
    """One direction: lets bytes pass no faster than the rate, with as much ahead as one piece."""

    def __init__(self, rate):
        self.rate = rate
        self.free_at = 0.0

    async def carry(self, length):
        begin = max(time.monotonic(), self.free_at)
        self.free_at = begin + length / self.rate
        wait = self.free_at - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)


class Proxy:
    def __init__(self, port, delay, rate):
        self.port, self.delay = port, delay
        self.up, self.down = Link(rate), Link(rate)

    async def serve(self, reader, writer):
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.port, limit=4 * PIECE)
        turn = {"is_new": True}
        try:
            await asyncio.gather(
                self.pump(reader, server_writer, self.up, turn, True), self.pump(server_reader, writer, self.down, turn, False)
            )
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            server_writer.close()

    async def pump(self, reader, writer, link, turn, is_request):
        while piece := await reader.read(PIECE):
            if is_request and turn["is_new"]:
                await asyncio.sleep(self.delay)
            turn["is_new"] = not is_request
            await link.carry(len(piece))
            writer.write(piece)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


async def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("--to", type=int, required=True, help="the server's port on 127.0.0.1")
    parser.add_argument("--delay", type=float, required=True, help="seconds before a request is passed on")
    parser.add_argument("--rate", type=float, required=True, help="bytes a second in each direction")
    options = parser.parse_args()
    proxy = Proxy(options.to, options.delay, options.rate)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=4 * PIECE)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
