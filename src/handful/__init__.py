"""handful: a handful of labelled texts and a causal language model make a text classifier."""

__version__ = "0.1.0"
