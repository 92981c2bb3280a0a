"""Distil BERT-style classifiers into small, fast students, and prove what was kept."""

__version__ = "0.1.0"
