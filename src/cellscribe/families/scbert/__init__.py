"""scBERT: a Performer over binned expression."""
