"""Training: a recipe is checked, its stages run in order through one loop, and a run can be stopped and continued."""
