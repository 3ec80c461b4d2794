"""Packs on the Hub, reports about them, and the way back."""
