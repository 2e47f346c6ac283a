"""Pages and plots from a journal, without torch."""
