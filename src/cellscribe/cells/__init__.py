"""Files of counts to ranked cells and tokens."""
