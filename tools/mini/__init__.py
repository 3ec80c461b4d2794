"""How mini-klein was trained: an autoencoder, a text encoder, a teacher, four-step distillation."""
