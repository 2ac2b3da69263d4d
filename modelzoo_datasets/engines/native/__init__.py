"""Train and evaluate on CPUs with a kernel that is compiled for the network: a whole model per thread."""
