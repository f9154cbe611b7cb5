"""Checkpoints of other projects, read and written. Nothing that a file contains is ever executed.

| format    | what it is                                                            | read | written |
|-----------|-----------------------------------------------------------------------|------|---------|
| openai    | state dict of openai/consistency_models: `.pt`                        | yes  | yes     |
| jcm       | training state of openai/consistency_models_cifar10: flax msgpack     | yes  | no      |
| edm       | network snapshot of NVlabs/edm: `.pkl`                                | yes  | no      |
| diffusers | folder of a `ConsistencyModelPipeline`, or of its `UNet2DModel` alone | yes  | yes     |

The format is recognized by the contents of a file, not by its name. Our own format is in `cm.checkpoints.native`.
"""

from cm.checkpoints.reading import import_checkpoint
from cm.checkpoints.writing import export_checkpoint

__all__ = ["export_checkpoint", "import_checkpoint"]
