"""Trained weights that come with the package: one folder each, with a card that says what they are."""
