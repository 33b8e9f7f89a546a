"""One file a run: `get_config` and, for tests, `get_test_config`."""
