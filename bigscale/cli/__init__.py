"""One file a subcommand: flags to spec to one call."""
