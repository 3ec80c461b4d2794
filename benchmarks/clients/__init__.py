"""Programs of others that run packs: one file each."""
