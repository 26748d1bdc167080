"""Fixtures of the indexer's tests."""

from helpers.fixtures import indexing as indexing
