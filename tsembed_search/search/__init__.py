"""Searching: filters, queries, reranking."""
