"""What a whole pipeline has beside its transformer: text encoder, tokenizer, VAE and scheduler."""

from .encoder import Encoder
from .files import PartFile
from .find import CLASS, FOLDERS, INDEX, Parts, find_parts, has_place, names_klein

__all__ = [
    "CLASS",
    "FOLDERS",
    "INDEX",
    "Encoder",
    "PartFile",
    "Parts",
    "find_parts",
    "has_place",
    "names_klein",
]
