"""The texts of PNG files: what Pillow writes, and what is broken."""

from __future__ import annotations

import io

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bonsai_quant.core.errors import BadInput
from bonsai_quant.storage.containers.png_text import is_png, read_texts

TEXTS = {"a": "plain", "b": "ü", "c": "红 🎨", "d": ""}


@pytest.fixture
def png(tmp_path):
    info = PngInfo()
    for keyword, text in TEXTS.items():
        info.add_text(keyword, text)
    info.add_text("squeezed", "x" * 99, zip=True)
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(buffer, "PNG", pnginfo=info)
    path = tmp_path / "a.png"
    path.write_bytes(buffer.getvalue())
    return path


def test_texts_are_read_as_they_were_written(png):
    assert is_png(png)
    assert read_texts(png) == TEXTS
    assert {k: Image.open(png).text[k] for k in TEXTS} == TEXTS


def test_every_cut_and_every_changed_byte_is_found(png):
    whole = png.read_bytes()
    for n in range(len(whole)):
        png.write_bytes(whole[:n])
        with pytest.raises(BadInput):
            read_texts(png)
        png.write_bytes(whole[:n] + bytes([whole[n] ^ 1]) + whole[n + 1 :])
        with pytest.raises(BadInput):
            read_texts(png)


def test_other_files_are_no_png(tmp_path):
    path = tmp_path / "x"
    assert not is_png(path)
    assert not is_png(tmp_path)
    path.write_bytes(b"GIF89a")
    assert not is_png(path)
    with pytest.raises(BadInput, match="is no PNG file"):
        read_texts(path)
