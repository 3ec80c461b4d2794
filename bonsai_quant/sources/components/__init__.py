"""What a whole pipeline has beside its transformer: text encoder, tokenizer, VAE and scheduler."""

from .files import Algorithm, ComponentFile
from .find import Components, find_components, is_component_file, names_klein
from .layout import CLASS, FOLDERS, INDEX
from .text_encoder import TextEncoder

__all__ = [
    "Algorithm",
    "CLASS",
    "FOLDERS",
    "INDEX",
    "TextEncoder",
    "ComponentFile",
    "Components",
    "find_components",
    "is_component_file",
    "names_klein",
]
