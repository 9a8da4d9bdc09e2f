"""The terminal chat; later the API and the web page."""
