"""One file for each foreign layout: read it, write it, refuse what it cannot hold."""
