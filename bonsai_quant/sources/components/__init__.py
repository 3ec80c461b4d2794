"""What a whole pipeline has beside its transformer: text encoder, tokenizer, VAE and scheduler."""

from .files import Algorithm, ComponentFile
from .find import Components, find_components, is_component_file, names_klein
from .layout import CLASS, CLASSES, FOLDERS, INDEX, NEEDED_LAYERS, READ_LAYERS
from .text_encoder import TextEncoder

__all__ = [
    "Algorithm",
    "CLASS",
    "CLASSES",
    "FOLDERS",
    "INDEX",
    "NEEDED_LAYERS",
    "READ_LAYERS",
    "TextEncoder",
    "ComponentFile",
    "Components",
    "find_components",
    "is_component_file",
    "names_klein",
]
