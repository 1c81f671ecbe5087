"""What several test modules use and what is no fixture."""
