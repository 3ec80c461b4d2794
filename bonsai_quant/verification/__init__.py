"""Proofs that a pack is right."""
