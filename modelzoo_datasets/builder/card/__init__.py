"""The dataset card: text, figures and snippets, rendered from measured values alone."""
