"""Let another library encode and decode rows with dictionaries that suture exported; run in that library's environment.

    PEER/bin/python scripts/run_peer.py saelens|sparsify|dictionary-learning|crosscoders FOLDER ROWS.safetensors OUT ..

Any number of dictionaries, three words for each. ROWS holds `x` [row, d], a crosscoder's [row, spaces, d]; OUT gets
`codes` and `decoded`. tests/formats/test_peers.py calls it where it finds the environments.
"""

# the libraries are in environments of their own
# pyright: reportMissingImports=false

import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def saelens(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    """SAELens' own loader, for use."""
    from sae_lens import SAE

    sae = SAE.load_from_disk(folder)
    codes = sae.encode(x)
    return codes, sae.decode(codes)


def sparsify(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    """sparsify's own loader."""
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
    from sparsify import SparseCoder

    sae = SparseCoder.load_from_disk(folder)
    values, indices, _ = sae.encode(x)
    return torch.zeros(len(x), sae.num_latents).scatter(1, indices, values), sae.decode(values, indices)


def dictionary_learning(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    """dictionary_learning's own loader; an AutoEncoder's decoder rows are left as long as they are."""
    from dictionary_learning.dictionary import AutoEncoder
    from dictionary_learning.utils import load_dictionary

    dictionary, config = load_dictionary(str(folder), device="cpu")
    if config["trainer"]["dict_class"] == "AutoEncoder":
        dictionary = AutoEncoder.from_pretrained(str(folder / "ae.pt"), normalize_decoder=False)
    codes = dictionary.encode(x)
    return codes, dictionary.decode(codes)


def crosscoders(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    """The fork's own loader."""
    import dictionary_learning as library

    kind = json.loads((folder / "config.json").read_text())["trainer"]["dict_class"]
    dictionary = getattr(library, kind).from_pretrained(str(folder / "ae.pt"))
    codes = dictionary.encode(x)
    return codes, dictionary.decode(codes)


PEERS = {
    "saelens": saelens,
    "sparsify": sparsify,
    "dictionary-learning": dictionary_learning,
    "crosscoders": crosscoders,
}

if __name__ == "__main__":
    library, *words = sys.argv[1:]
    for folder, rows, out in zip(words[::3], words[1::3], words[2::3], strict=True):
        with torch.no_grad():
            codes, decoded = PEERS[library](Path(folder), load_file(rows)["x"])
        save_file({"codes": codes.float().contiguous(), "decoded": decoded.float().contiguous()}, out)
