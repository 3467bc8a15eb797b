"""The parts of an audit: what is read, what the machine makes of it, and what the books say besides."""
