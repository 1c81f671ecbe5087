"""The live catalog held against the declared spec."""
