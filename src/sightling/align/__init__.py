"""Where preference and correction data come from."""
