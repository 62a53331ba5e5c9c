"""Objects in buckets and on the web, and their copies on this machine."""
