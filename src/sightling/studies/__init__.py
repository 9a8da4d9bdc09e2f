"""Studies: one question, several variants of a recipe, several seeds, and what follows from the numbers."""
