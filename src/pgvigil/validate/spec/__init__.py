"""Read specs, write them, and list the objects they declare."""
