"""The dataset card: text, figures and code, rendered from measured values."""
