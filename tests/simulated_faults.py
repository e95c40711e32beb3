"""What may go wrong with an answer of the simulated Azure: values for Azure.faults."""

from __future__ import annotations

import os
import socket
import struct
import time

from simulated_services import Answer, Handler


def drop(handler: Handler) -> None:
    """Close the connection without an answer: the caller does."""


def reset(handler: Handler) -> None:
    linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.connection.close()


def cut(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 401 No\r\nContent-Length: 100\r\n\r\n{")


def cut_chunked(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 401 No\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{")


def garbage(handler: Handler) -> None:
    handler.wfile.write(b"nonsense\r\n\r\n")


def hang(handler: Handler) -> None:
    handler.connection.recv(1)


def echo(handler: Handler) -> None:
    """Answer with what was sent, secrets and all."""
    handler.answer(400, {"message": f"{handler.headers} {handler.body!r}"})


def flood(handler: Handler) -> None:
    """Answer without end."""
    handler.wfile.write(b"HTTP/1.1 401 No\r\n\r\n")
    while True:
        handler.wfile.write(bytes(65536))


def status(code: int, content: object = "<html>", **headers: str) -> Answer:
    def answer(handler: Handler) -> None:
        handler.answer(code, content, headers)

    answer.__name__ = str(code)
    return answer


def drip(start: bytes, more: bytes) -> Answer:
    """Be never silent and never done, until the other end hangs up."""

    def answer(handler: Handler) -> None:
        handler.wfile.write(start)
        while True:
            handler.wfile.write(more)
            time.sleep(0.05)

    return answer


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
DRIPS = {
    "headers": drip(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "a body": drip(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{", b" "),
    "interim answers": drip(CONTINUE, CONTINUE),
}
BROKEN = [drop, reset, cut, cut_chunked, garbage]
OVERLOADED = [status(code) for code in (429, 500, 502, 503, 504)]
