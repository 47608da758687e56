"""The tiny model that the tests of stages answer with."""

from collections.abc import Callable

import pytest

from panollava import PanoLlavaForConditionalGeneration


@pytest.fixture
def model(make_model: Callable[..., PanoLlavaForConditionalGeneration]) -> PanoLlavaForConditionalGeneration:
    return make_model()
