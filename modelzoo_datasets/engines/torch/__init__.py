"""The reference engine: plain PyTorch, one model at a time."""
