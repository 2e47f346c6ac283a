"""Bundles and what runs them."""
