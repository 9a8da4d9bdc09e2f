"""Generation: greedy answers in batches, one answer streamed, conversations."""
