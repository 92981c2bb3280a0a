"""What is written to disk and to the Hub, whole or not at all."""
