"""What a model can do, measured: answers against the truth, next to guessers who never see the picture."""
