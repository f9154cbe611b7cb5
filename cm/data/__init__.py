"""Data sets, one a file, and the one layout that training and scoring map into memory without copying:

`<out>/<split>/images.npy` (uint8 [N, H, W, C]), `<out>/<split>/labels.npy` (int64 [N]) and `<out>/manifest.json`.
"""

from cm.data.preparing import prepare

__all__ = ["prepare"]
