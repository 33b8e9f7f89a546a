"""The collapse monitor: sees it coming, keeps a healthy state."""
