"""Events that could not be read or recorded, and that wait for an operator."""
