"""Where a failing tap goes wrong: operands, statements, and what the error looks like."""
