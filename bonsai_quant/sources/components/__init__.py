"""What a whole pipeline has beside its transformer: text encoder, tokenizer, VAE and scheduler."""

from .files import PartFile
from .find import FOLDERS, Parts, find_parts, has_place, names_klein
from .layout import CLASS, INDEX
from .text_encoder import Encoder

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
