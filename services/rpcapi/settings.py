"""What an operator sets about the HTTP API, section [rpcapi].

Refused at start, with the option named: an open API on an address that others reach, a token without a value, half a
TLS pair.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from services.common.rpc import is_loopback
from services.common.settings import SettingsError, option

MINIMUM_TOKEN_LENGTH = 16


@dataclass(frozen=True)
class RpcapiSettings:
    """The operator API."""

    group: ClassVar[str] = "rpcapi"

    listen: tuple[str, ...] = option(("127.0.0.1", "::1"), help="Addresses to listen on, IPv4 and IPv6, without port")
    port: int = option(44250, help="TCP port on each of these addresses", minimum=1, maximum=65535)
    grpc_listen: str = option("127.0.0.1:44255", help="Where gRPC health, reflection and channelz listen, host:port")
    auth: str = option(
        "token",
        help="token: calls carry `Authorization: Bearer <token>`; none: open, on loopback addresses only",
        choices=("token", "none"),
    )
    token: str = option("", help="The token; better put it in token_file", secret=True)
    token_file: str = option("", help="File that holds the token; blanks around it are ignored")
    tls_cert: str = option("", help="File with the certificate chain (PEM); with it the API speaks HTTPS")
    tls_key: str = option("", help="File with its private key (PEM)")
    max_body_bytes: int = option(
        65_536, help="Larger request bodies are answered 413", minimum=1_024, maximum=16_777_216
    )
    command_rate: float = option(20.0, help="Commands (PUT) a second that one client address may give", minimum=0.1)
    query_rate: float = option(200.0, help="Other requests a second that one client address may make", minimum=0.1)
    max_connections: int = option(
        1_000, help="Connections at a time; more are answered 503", minimum=1, maximum=100_000
    )
    max_streams: int = option(
        100, help="Open live streams at a time; more are answered 503", minimum=1, maximum=100_000
    )


def read_token(settings: RpcapiSettings) -> str | None:
    """The token that callers must show, or None for an open API on loopback. SettingsError when neither is possible."""
    if not settings.listen:
        raise SettingsError("[rpcapi] listen names no address")
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise SettingsError("[rpcapi] tls_cert and tls_key belong together: set both or none")
    if settings.auth == "none":
        exposed = [address for address in settings.listen if not is_loopback(address)]
        if exposed:
            raise SettingsError(
                f"[rpcapi] auth = none is for loopback addresses only, and listen has {', '.join(exposed)}: "
                "set auth = token and token_file"
            )
        return None
    token = settings.token
    if settings.token_file:
        try:
            token = Path(settings.token_file).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise SettingsError(f"[rpcapi] token_file {settings.token_file} cannot be read: {error}") from error
    if len(token) < MINIMUM_TOKEN_LENGTH:
        raise SettingsError(
            f"[rpcapi] auth = token wants token_file (or token) with at least {MINIMUM_TOKEN_LENGTH} characters; "
            "on loopback addresses auth = none is possible"
        )
    return token
