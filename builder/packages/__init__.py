"""Debian packages: asked for once, locked, fetched, unpacked."""
