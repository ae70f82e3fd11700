"""Workers' lives: what they sign, how they end, and whether events of theirs are missing."""
