"""Pages of the documentation: what their blocks say, and running them."""
