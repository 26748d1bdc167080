"""What the tests of this folder share."""

from __future__ import annotations

from helpers.fixtures import small_base as small_base
