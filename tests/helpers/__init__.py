"""The helpers of several test modules that are not fixtures."""
