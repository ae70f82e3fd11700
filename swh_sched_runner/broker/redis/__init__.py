"""Redis and Valkey, as kombu uses them."""
