"""Dates as people write them, read as spans of time.

A date stands for the whole of it, in local time: `2024-01-31` is that day, `2024-01` that month, `2024` that year,
`2024-01-31T10:30` that minute; `today` and `yesterday` are days. `30d` is the moment 30 days ago (also `min`, `h`, `w`,
`mo` of 30 days, `y` of 365), and `@1706659200` a moment in seconds since 1970.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime, time, timedelta

_UNITS = {"min": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "mo": 30 * 86400, "y": 365 * 86400}
_AGO = re.compile(r"(\d{1,9})\s?(min|mo|h|d|w|y)")
_EPOCH = re.compile(r"@(-?\d{1,12}(?:\.\d+)?(?:e[+-]?\d{1,3})?)")
_MONTH = re.compile(r"(\d{4})(?:-(\d{1,2}))?")

EXPECTED = "a date such as 2024-01-31, 2024-01, 2024, 2024-01-31T10:30, today, yesterday, or 30d for 30 days ago"


def read_span(text: str, now: datetime) -> tuple[float, float]:
    """(start, end) of the span of time that `text` names, in seconds since 1970; equal when it is one moment.

    `now` is a local time with its zone. Raises `ValueError` for anything that is not a date.
    """
    text = text.strip().lower()
    if match := _AGO.fullmatch(text):
        moment = now.timestamp() - int(match[1]) * _UNITS[match[2]]
        return moment, moment
    if match := _EPOCH.fullmatch(text):
        moment = float(match[1])
        if not math.isfinite(moment):
            raise ValueError(f"{text} is too large")
        return moment, moment
    try:
        start, end = _calendar(text, now)
    except OverflowError as error:
        raise ValueError(f"{text} lies outside the calendar") from error
    return _seconds(start), _seconds(end)


def _seconds(moment: datetime) -> float:
    """Seconds since 1970. In years that the system's clock does not have, as in year 1, zones are left out."""
    try:
        return moment.timestamp()
    except (OverflowError, OSError, ValueError):
        return moment.replace(tzinfo=UTC).timestamp()


def _calendar(text: str, now: datetime) -> tuple[datetime, datetime]:
    if text in ("today", "yesterday"):
        day = now.date() - timedelta(days=text == "yesterday")
        return _midnight(day), _midnight(day + timedelta(days=1))
    if match := _MONTH.fullmatch(text):
        year, month = int(match[1]), int(match[2] or 1)
        first = date(year, month, 1)
        after = date(year + 1, 1, 1) if month == 12 or not match[2] else date(year, month + 1, 1)
        return _midnight(first), _midnight(after)
    if "t" not in text and " " not in text:
        day = date.fromisoformat(text)
        return _midnight(day), _midnight(day + timedelta(days=1))
    start = datetime.fromisoformat(text.upper())
    clock = re.split(r"[t ]", text, maxsplit=1)[1]
    digits = len(re.sub(r"[^\d:].*", "", clock).replace(":", ""))
    # Hours, minutes or seconds were given; a fraction of a second is a moment.
    length = 0 if "." in clock else {2: 3600, 4: 60}.get(digits, 1)
    return start, start + timedelta(seconds=length)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time())
