"""Fixtures of the tests of faults."""

from helpers.fixtures import indexing as indexing
