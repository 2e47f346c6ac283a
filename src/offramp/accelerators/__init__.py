"""Accelerator descriptions shipped with the package (YAML)."""
