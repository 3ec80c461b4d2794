"""The model's own way from noise to picture, which calibration and distillation learn from."""
