"""Many clients of all kinds, for a long time, on a bad network."""
