"""The Internet checksum (RFC 1071)."""

import struct


def checksum(data: bytes) -> int:
    """That of an even number of bytes."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
