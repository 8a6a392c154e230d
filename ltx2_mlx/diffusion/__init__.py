"""The steps between two latents: schedules, noise, samplers, guidance, conditioning."""
