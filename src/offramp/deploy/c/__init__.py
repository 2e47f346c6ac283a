"""Integer-only C11 from a bundle: packing, memory plan, exit decisions, code, and what builds and runs it."""
