"""Presets that were tuned."""

from collections.abc import Mapping
from typing import Any

SETTINGS: Mapping[str, str] = {}
TUNED: Mapping[str, Mapping[str, Mapping[str, Any]]] = {}
