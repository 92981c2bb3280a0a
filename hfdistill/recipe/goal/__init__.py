"""A student is chosen for a budget: what fits is tried rung by rung, until one keeps what was asked for."""
