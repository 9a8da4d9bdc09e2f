"""A small world with exact truth: scenes, their pictures, and the words that say and read them."""
