"""``Sample``, the one record everything speaks; a file for each on-disk format; splits, mixtures and checks."""
