"""Numbers in words: counts, shares, correlations, durations and sizes as a person reads them."""

import math

DASH = "–"
"""What stands where there is no number."""

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def count(value: int | float | None) -> str:
    """A whole number with thousands separated: `12,345`."""
    return DASH if value is None or not math.isfinite(value) else f"{value:,.0f}"


def number(value: int | float | None, digits: int = 3) -> str:
    """A number with `digits` significant digits, without an exponent where that stays short."""
    if value is None or not math.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e6:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return f"{value:,.{decimals}f}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa}\u00a0×\u00a010{str(int(exponent)).translate(_SUPERSCRIPT)}"


def percent(share: int | float | None, digits: int = 1) -> str:
    """A share of one as `12.3 %`, with a space that does not break."""
    return DASH if share is None or not math.isfinite(share) else f"{100 * share:.{digits}f}\u00a0%"


def fvu(value: int | float | None) -> str:
    """A fraction of variance (unexplained or explained) with three decimals."""
    return DASH if value is None or not math.isfinite(value) else f"{value:.3f}".replace("-", "−")


def correlation(value: int | float | None) -> str:
    """A number between -1 and 1 with two decimals."""
    return DASH if value is None or not math.isfinite(value) else f"{value:.2f}".replace("-", "−")


def seconds(value: int | float) -> str:
    """A duration as a person says it."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def size(n_bytes: int | float) -> str:
    """Bytes as a person says them.

    >>> size(4_200_000), size(61_400_000_000)
    ('4.2 MB', '61.4 GB')
    """
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:,.1f} MB"


def clock(value: float) -> str:
    """A length of time as a clock shows it.

    >>> clock(75.4), clock(7322)
    ('1:15', '2:02:02')
    """
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
