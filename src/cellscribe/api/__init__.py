"""What one does with cellscribe, a file a verb: command line and Python call the same."""
