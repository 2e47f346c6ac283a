"""Space, strategies and the study loop."""
