"""Tables of long-tailed recognition papers, trained again from scratch by the papers' own protocols."""

__version__ = "0.1.0"
