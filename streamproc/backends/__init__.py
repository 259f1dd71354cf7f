"""Backends run the model step. Each is chosen by file type and imported when first used."""
