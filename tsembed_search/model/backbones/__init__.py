"""Backbones: a protocol, then one file per family."""
