"""The native engine: one compiled C++ kernel per architecture, one whole model per thread."""
