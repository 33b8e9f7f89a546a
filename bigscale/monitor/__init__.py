"""The collapse monitor: detects a collapse early and keeps a healthy state."""
