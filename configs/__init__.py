"""One file per run, with `get_config` and, for tests, `get_test_config`."""
