"""Conversion of a checkpoint of any known format to the weights of one of our networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm.checkpoints import diffusers_folder, diffusers_names, edm_pickle, flax_state, torch_file
from cm.checkpoints.fitting import check_conventions, check_network, fit_weights
from cm.checkpoints.recognition import FORMATS, recognize_format
from cm.errors import UserError, unknown
from cm.networks.adm import ADM
from cm.networks.ncsnpp import NCSNpp

if TYPE_CHECKING:
    from torch import Tensor


def import_checkpoint(path: Path, network: Any, weights: str = "ema") -> dict[str, Tensor]:
    """Read the weights of a checkpoint, float32, by the names of `network.build()`, into which they load strictly.

    `network`: the description of the network, an `NCSNpp` or an `ADM`. `weights`: `ema`, `online` or `target`; only
    files of jcm have a choice. Raises UserError for a file that is damaged, of an unknown format, of another network,
    or that asks for code to be executed.
    """
    if weights not in flax_state.FIELDS:
        raise unknown("weights", weights, flax_state.FIELDS)
    path = Path(path)
    format_name = recognize_format(path)
    if format_name in NETWORKS:
        check_network(network, NETWORKS[format_name], path, FORMATS[format_name])
    if weights != "ema" and format_name != "jcm":
        raise UserError(
            f"{path} is {FORMATS[format_name]}, which has one set of weights, not '{weights}' ones of its own"
        )
    check_conventions(network, format_name, path)
    return fit_weights(READERS[format_name](path, network, weights), network, path)


def _read_openai(path: Path, network: ADM, weights: str) -> dict[str, Tensor]:
    from cm.checkpoints.openai_names import adm_state_dict

    return _convert(path, adm_state_dict, torch_file.read(path), network)


def _read_jcm(path: Path, network: NCSNpp, weights: str) -> dict[str, Tensor]:
    from cm.checkpoints.jcm_names import ncsnpp_state_dict

    return _convert(path, ncsnpp_state_dict, flax_state.read(path, weights), network)


def _read_edm(path: Path, network: Any, weights: str) -> dict[str, Tensor]:
    return edm_pickle.read(path)


def _read_diffusers(path: Path, network: ADM, weights: str) -> dict[str, Tensor]:
    return _convert(path, diffusers_names.adm_state_dict, diffusers_folder.read(path, network), network)


def _convert(path: Path, convert: Callable[..., dict[str, Tensor]], theirs: dict, network: Any) -> dict[str, Tensor]:
    """Call `convert(theirs, network)`; whatever does not fit becomes a UserError that names the file."""
    try:
        return convert(theirs, network)
    except UserError as error:
        raise UserError(f"{path} holds another network: {error}") from None
    except KeyError as error:
        raise UserError(f"{path} holds another network: it has no {error.args[0]}") from None
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} holds another network: {str(error).splitlines()[0]}") from None


READERS: dict[str, Callable[[Path, Any, str], dict[str, Any]]] = {
    "openai": _read_openai,
    "jcm": _read_jcm,
    "edm": _read_edm,
    "diffusers": _read_diffusers,
}
NETWORKS: dict[str, type] = {"openai": ADM, "jcm": NCSNpp, "diffusers": ADM}
