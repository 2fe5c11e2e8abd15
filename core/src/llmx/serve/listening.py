"""The socket that a server listens on."""

from __future__ import annotations

import ipaddress
import socket

from llmx.errors import UserError


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections; port 0 finds a free one.

    Raises:
        UserError: the address is not this machine's, or in use.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"cannot listen on {host}, port {port}: {reason}",
            remedy="choose another with --port, or --port 0 for any that is free",
        ) from error
