"""Workload times accelerator gives cycles and picojoules."""
