"""What may go wrong with an answer of the simulated Azure: values for Azure.faults."""

from __future__ import annotations

import os
import socket
import struct
import time

from simulated_azure import Answer, Handler


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
    """Answer with all that was sent, which is no HTTP."""
    handler.wfile.write(sent(handler).encode() + b"\r\n\r\n")


def hang(handler: Handler) -> None:
    handler.connection.recv(1)


def sent(handler: Handler) -> str:
    """Return all that a request sent, secrets and all."""
    return " ".join([*handler.headers.values(), handler.body.decode()])


def echo(handler: Handler) -> None:
    """Refuse in words that hold all that was sent."""
    handler.answer(400, {"message": sent(handler)})


def echo_phrase(handler: Handler) -> None:
    """Refuse likewise, but where Azure DevOps has its words."""
    handler.answer(403, reason=sent(handler))


def redirect(handler: Handler) -> None:
    """Send the client to another host, with all that was sent."""
    handler.answer(302, headers={"Location": f"https://evil.example/?{sent(handler)}"})


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


# All is well, in words of the wrong kinds
nonsense = status(200, {"token": ["x"], "access_token": 7, "value": ""})


def refuses(code: int, message: str) -> Answer:
    """Return the answer of an API of Azure DevOps that refuses in these words."""
    return status(code, {"message": message})


def drip(start: bytes, more: bytes) -> Answer:
    """Be never silent, and not done for a second."""

    def answer(handler: Handler) -> None:
        handler.wfile.write(start)
        for _ in range(24):
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
OVERLOADED = [*map(status, (429, 500, 503))]

# Why the token service refuses a person who has a token of the tenant
NOT_MATERIALIZED = refuses(
    403,
    "Identity 77777777-0000-0000-0000-000000000000 has not been materialized, please"
    " use interactive login over the browser first.",
)
TF401444 = refuses(
    401,
    "TF401444: Please sign-in at least once as 77777777\\dev@contoso.com in a web"
    " browser to enable access to the service.",
)
VS403463 = refuses(
    403,
    "VS403463: The conditional access policy defined by your Microsoft Entra"
    " administrator has failed.",
)
