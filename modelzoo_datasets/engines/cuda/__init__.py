"""Train and evaluate on one GPU: stacked tensors, and a kernel with a whole model per thread block."""
