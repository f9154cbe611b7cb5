"""The open reproducibility suite for consistency models (Song et al., ICML 2023, arXiv 2303.01469)."""

__version__ = "0.1.0"
