"""A page to look around in: cells as points of two linked maps, coloured, filtered and selected.

The page is one file without a network. What it draws with is a bundle that `scripts/build_explorer`
makes of ``web/``; what it draws is packed here.
"""
