"""What the sample workflows call."""

from __future__ import annotations

import os
import time
from typing import Any

import pandas as pd


def sales(date: str) -> pd.DataFrame:
    """Three sales of a day."""
    return pd.DataFrame({"date": [date] * 3, "shop": ["a", "b", "c"], "amount": [10.0, 20.0, 30.0]})


def total(sold: pd.DataFrame) -> dict[str, Any]:
    """Their sum."""
    return {"amount": float(sold["amount"].sum()), "shops": len(sold)}


def praise(summary: dict[str, Any]) -> str:
    """A word on a good day."""
    return f"{summary['amount']:.0f} is good"


def lines(path: str) -> int:
    """A stand-in for reading the file that arrived."""
    return len(path)


def needs_file(first: dict[str, Any], path: str) -> dict[str, Any]:
    """Fails until the file is there."""
    return {**first, "size": os.path.getsize(path)}


def one() -> dict[str, Any]:
    """A value that differs from run to run."""
    return {"process": os.getpid(), "at": time.time_ns()}
