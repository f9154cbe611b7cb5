"""A checkpoint of any known form to the weights of a network of ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm.checkpoints import diffusers_folder, diffusers_names, edm_pickle, flax_state, torch_file
from cm.checkpoints.fitting import check_conventions, fitted, network_is
from cm.checkpoints.recognition import KNOWN, form_of
from cm.errors import UserError, unknown
from cm.networks.adm import ADM
from cm.networks.ncsnpp import NCSNpp

if TYPE_CHECKING:
    from torch import Tensor


def import_checkpoint(path: Path, network: Any, weights: str = "ema") -> dict[str, Tensor]:
    """Weights by the names of `network.build()`, float32, which load strictly. `network`: an `NCSNpp` or an `ADM`.

    `weights`: `ema`, `online` or `target`; only jcm's files have a choice. UserError, in one line, for a file that is
    damaged, of an unknown form, of another network, or that asks for code to be run.
    """
    if weights not in flax_state.FIELDS:
        raise unknown("weights", weights, flax_state.FIELDS)
    path = Path(path)
    form = form_of(path)
    if form in NETWORKS:
        network_is(network, NETWORKS[form], path, KNOWN[form])
    if weights != "ema" and form != "jcm":
        raise UserError(f"{path} is {KNOWN[form]}, which has one set of weights, not '{weights}' ones of its own")
    check_conventions(network, form, path)
    return fitted(READERS[form](path, network, weights), network, path)


def _openai(path: Path, network: ADM, weights: str) -> dict[str, Tensor]:
    from cm.checkpoints.openai_names import adm_state_dict

    return _renamed(path, adm_state_dict, torch_file.read(path), network)


def _jcm(path: Path, network: NCSNpp, weights: str) -> dict[str, Tensor]:
    from cm.checkpoints.jcm_names import ncsnpp_state_dict

    return _renamed(path, ncsnpp_state_dict, flax_state.read(path, weights), network)


def _edm(path: Path, network: Any, weights: str) -> dict[str, Tensor]:
    return edm_pickle.read(path)


def _diffusers(path: Path, network: ADM, weights: str) -> dict[str, Tensor]:
    return _renamed(path, diffusers_names.adm_state_dict, diffusers_folder.read(path, network), network)


def _renamed(path: Path, rename: Callable[..., dict[str, Tensor]], theirs: dict, network: Any) -> dict[str, Tensor]:
    try:
        return rename(theirs, network)
    except UserError as error:
        raise UserError(f"{path} holds another network: {error}") from None
    except KeyError as error:
        raise UserError(f"{path} holds another network: it has no {error.args[0]}") from None
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} holds another network: {str(error).splitlines()[0]}") from None


READERS = {"openai": _openai, "jcm": _jcm, "edm": _edm, "diffusers": _diffusers}
NETWORKS = {"openai": ADM, "jcm": NCSNpp, "diffusers": ADM}
