"""Measuring: what a student kept of its teacher, as a report, plots and a card."""
