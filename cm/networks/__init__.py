"""Network descriptions, one per file.

A description is a frozen dataclass registered as a `network`; its fields are the `network:` section of the YAML. It
imports no torch: `check()`, where there is one, refuses impossible values with a UserError, and `build()` returns the
`torch.nn.Module`, whose code is in `cm.networks.modules`; `cm.networks.base` has the protocols. The module of a
denoiser maps `(x [B, C, H, W], noise_labels [B], class_labels [B, classes])` to a tensor of the shape of x and has an
attribute `classes` (0: unconditional); with `two_times: true` its noise labels are [B, 2]. Every module takes
`dropout_seeds`, int64 [B] or None: with them the dropout mask of each image is a function of its own seed.
"""
