"""A stored tensor is read as the safetensors package reads it, whole or some rows of it."""

from __future__ import annotations

import os

import numpy as np
import pytest
from safetensors.numpy import save_file

from bonsai_quant.core.errors import BadInput
from bonsai_quant.storage.containers.safetensors import read_header
from bonsai_quant.storage.tensors import read, read_rows

VALUES = {
    "matrix": np.arange(12, dtype=np.float32).reshape(4, 3),
    "words": np.arange(6, dtype=np.uint32).reshape(2, 3),
    "wide": np.arange(4, dtype=np.float64),
    "counts": np.arange(-2, 2, dtype=np.int64),
    "number": np.array(7, np.float16),
}


@pytest.fixture
def stored(tmp_path):
    save_file(VALUES, tmp_path / "some.safetensors")
    return {t.spec.name: t for t in read_header(tmp_path / "some.safetensors").tensors}


@pytest.mark.parametrize("name", VALUES)
def test_a_tensor_is_read_as_it_was_saved(stored, name):
    values = read(stored[name])
    assert (values.dtype, values.shape) == (VALUES[name].dtype, VALUES[name].shape)
    assert np.array_equal(values, VALUES[name])


def test_rows_and_an_open_file(stored):
    tensor = stored["matrix"]
    fd = os.open(tensor.path, os.O_RDONLY)
    try:
        assert np.array_equal(read(tensor, fd), VALUES["matrix"])
        assert np.array_equal(read_rows(tensor, 1, 3, fd), VALUES["matrix"][1:3])
        os.fstat(fd)  # it is the caller's, and still open
    finally:
        os.close(fd)
    assert np.array_equal(read_rows(tensor, 0, 4), VALUES["matrix"])


def test_a_file_that_ends_early_is_bad_input(stored):
    tensor = max(stored.values(), key=lambda t: t.offset + t.spec.nbytes)
    os.truncate(tensor.path, tensor.offset)
    with pytest.raises(BadInput, match="too early"):
        read(tensor)
