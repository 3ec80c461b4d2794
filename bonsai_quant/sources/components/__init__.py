"""What a whole pipeline has beside its transformer: text encoder, tokenizer, VAE and scheduler."""

from .files import PartFile
from .find import FOLDERS, Components, find_components, has_place, names_klein
from .layout import CLASS, INDEX
from .text_encoder import TextEncoder

__all__ = [
    "CLASS",
    "FOLDERS",
    "INDEX",
    "TextEncoder",
    "PartFile",
    "Components",
    "find_components",
    "has_place",
    "names_klein",
]
