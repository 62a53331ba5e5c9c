"""What several tests share: makers of files and of a tiny model."""
