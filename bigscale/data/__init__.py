"""Images from shards, as a pure function of seed and record index."""
