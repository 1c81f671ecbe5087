"""Specs: reading them, writing them, and the objects they declare."""
