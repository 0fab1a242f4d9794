"""Figures and tables of the paper, drawn from stored outcomes alone."""
