"""Vector stores behind one protocol: Qdrant Edge in process, or a Qdrant server."""
