"""The models themselves: their parts, their hidden states, their classes and tokenizers."""
