"""FitCLIP's method on features and weights: encode, distil, fuse, measure, store."""
