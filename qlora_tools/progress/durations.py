"""Seconds in words."""

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400


def duration_words(seconds: float) -> str:
    """A length of time with its two largest units: `0.4 s`, `45 s`, `3 min 20 s`, `1 h 05 min`, `2 d 03 h`."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02d} s"
    minutes = round(seconds / _MINUTE)
    if minutes < _DAY // _MINUTE:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / _HOUR)
    return f"{hours // 24} d {hours % 24:02d} h"
