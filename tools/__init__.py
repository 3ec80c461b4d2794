"""Programs for the project's own work: they make checkpoints, prompts and mini-klein."""
