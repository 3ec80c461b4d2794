"""How well a model paints: captions, pictures, and an exact checker."""
