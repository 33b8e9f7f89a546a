"""The collapse monitor, which detects a collapse and keeps a healthy state."""
