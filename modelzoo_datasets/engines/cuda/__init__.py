"""The engine of one GPU: stacked weights, and a kernel that trains a whole model per thread block."""
