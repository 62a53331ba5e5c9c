"""Figures and the self-contained HTML report.

matplotlib and umap-learn (the `report` extra) are imported only when something is drawn.
"""

from cellscribe.report.embedding_page import EmbeddingReport, write_report
from cellscribe.report.figures import write_map
from cellscribe.report.umap import umap_coordinates

__all__ = ["EmbeddingReport", "umap_coordinates", "write_map", "write_report"]
