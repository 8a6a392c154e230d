"""All that happens between two latents: schedules, noise, samplers, guidance, conditioning."""
