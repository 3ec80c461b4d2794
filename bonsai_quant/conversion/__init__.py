"""From a source to packs."""
