"""Many files of cells -> one shuffled, split, documented training store."""
