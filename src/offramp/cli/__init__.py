"""The command line: one file per command; `app` holds them together and turns errors into exit codes."""
