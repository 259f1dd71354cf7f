"""One module per command of ``python -m export``, each a function of the same name."""
