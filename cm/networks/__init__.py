"""Network descriptions, one per file.

A description is a frozen dataclass registered as a `network`; its fields are the `network:` section of the YAML. It costs
nothing to make and imports no torch: `check()` refuses impossible values with a UserError, and `build()` returns the
`torch.nn.Module`, whose code is in `cm.networks.modules`. Every module maps `(x, noise_labels, class_labels)` to a tensor
of the shape of `x` and has an attribute `classes`, the length of a one-hot class label (0: unconditional).
"""
