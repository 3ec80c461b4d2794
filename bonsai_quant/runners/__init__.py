"""Code that runs packs and pipelines; each runner is imported where it is used."""
