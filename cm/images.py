"""Any set of images to be scored: a folder or a zip of encoded images, or an array [N, H, W, C] in a .npz or .npy file.

Whatever is wrong with it is told when it is opened, in one line, but for images whose header is whole and whose
pixels are not. Nothing is guessed: floats, transparency, other sizes and other orders of the axes are refused.
"""

from __future__ import annotations

import abc
import collections
import dataclasses
import hashlib
import io
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from cm import arrays
from cm.data.encoded import SUFFIXES
from cm.data.sources.stores import Files, Store, Unreadable, ZipMembers, open_zip
from cm.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image
