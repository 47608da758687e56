"""The package's own interface: its example runs as printed, and its names are all there."""

import doctest

import torch

import panollava.metrics as metrics


def test_the_example_in_the_docstring_runs() -> None:
    names = {"torch": torch} | {name: vars(metrics)[name] for name in metrics.__all__}
    example = doctest.DocTestParser().get_doctest(metrics.__doc__ or "", names, "panollava.metrics", None, 0)
    assert len(example.examples) == 4
    failed, tried = doctest.DocTestRunner().run(example)
    assert (failed, tried) == (0, 4)


def test_every_public_name_is_documented_and_in_order() -> None:
    assert metrics.__all__ == sorted(set(metrics.__all__))
    assert all(vars(metrics)[name].__doc__ for name in metrics.__all__)
