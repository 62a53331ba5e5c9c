"""From labelled cells to a model with a calibrated head."""
