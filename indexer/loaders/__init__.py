"""Loaders: one file per format, each turns a file into units."""
