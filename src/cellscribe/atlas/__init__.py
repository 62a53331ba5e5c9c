"""Many sources, many workers: shards of an atlas, claimed one by one, and their results joined."""
