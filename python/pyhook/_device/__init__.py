"""Gradients in the memory of any device that torch has: streams, and what package ddp does."""
