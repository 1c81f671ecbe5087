"""Spec to migrations to runner: what changes a database, and how it is made safe."""
