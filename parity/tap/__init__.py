"""How values are seen: modules and functions are wrapped while a run lasts, and what passes is recorded."""
