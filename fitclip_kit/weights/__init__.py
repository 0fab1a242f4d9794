"""Weights in and out: safetensors, foreign formats, export."""
