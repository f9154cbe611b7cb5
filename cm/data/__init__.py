"""Data sets, one per file, and their preparation into the layout that training and scoring map into memory:

`<out>/<split>/images.npy` (uint8 [N, H, W, C]), `<out>/<split>/labels.npy` (int64 [N]) and `<out>/manifest.json`.
"""

from cm.data.preparing import prepare

__all__ = ["prepare"]
