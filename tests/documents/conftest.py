"""Fixtures of the tests of documents."""

from helpers.fixtures import indexing as indexing
