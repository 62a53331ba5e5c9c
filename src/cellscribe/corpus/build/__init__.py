"""From many files of cells to one shuffled, split, tokenised store."""
