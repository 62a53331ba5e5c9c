"""What tasks compute with: metrics, probes, features, intervals."""
