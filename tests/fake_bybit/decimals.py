"""Whole numbers written as decimal strings, so that no float ever touches a price."""

from __future__ import annotations


def fixed(units: int, decimals: int) -> str:
    """`fixed(1716400, 2)` is "17164.00": every decimal is kept."""
    if decimals == 0:
        return str(units)
    sign = "-" if units < 0 else ""
    digits = str(abs(units)).zfill(decimals + 1)
    return f"{sign}{digits[:-decimals]}.{digits[-decimals:]}"


def trimmed(units: int, decimals: int) -> str:
    """`trimmed(1716450, 2)` is "17164.5": zeros at the end are dropped."""
    text = fixed(units, decimals)
    return text.rstrip("0").rstrip(".") if decimals else text


def rescaled(units: int, decimals: int, wanted: int) -> int:
    """The same number in units of 10**-wanted, rounded down."""
    if wanted >= decimals:
        return units * int(10 ** (wanted - decimals))
    return units // int(10 ** (decimals - wanted))
