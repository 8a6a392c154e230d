"""Published ports that are not ours, declared as sides."""
