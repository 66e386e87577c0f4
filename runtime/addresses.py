"""Addresses of machines as others write them. Knows no service."""


def web_address(host: str, port: int) -> str:
    """``http://HOST:PORT``; an IPv6 address stands in brackets there."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
