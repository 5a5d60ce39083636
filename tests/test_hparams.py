"""What a checkpoint keeps of a component, and the comparison with what is given."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest

from lrkd.errors import UserError
from lrkd.extractors import Extractor, MLPExtractor
from lrkd.hparams import component_factory, component_spec, refuse_different_hyperparameters
from lrkd.losses import CosineGuidance, Guidance, InfoNCEGuidance

INFO_NCE = {"class_path": "lrkd.losses.InfoNCEGuidance", "init_args": {"temperature": 0.2}}


def test_a_factory_binds_the_specs_arguments():
    guidance = component_factory(INFO_NCE, Guidance, "guidance")()
    assert isinstance(guidance, InfoNCEGuidance)
    assert guidance.temperature == 0.2


@pytest.mark.parametrize("rest", [{}, {"init_args": {}}, {"init_args": None}])
def test_arguments_may_be_left_out(rest):
    spec = {"class_path": "lrkd.losses.CosineGuidance", **rest}
    assert isinstance(component_factory(spec, Guidance, "guidance")(), CosineGuidance)


def test_arguments_that_come_later_join_the_specs():
    spec = {"class_path": "lrkd.extractors.MLPExtractor", "init_args": {"intermediate_size": 5}}
    extractor = component_factory(spec, Extractor, "extractor")(hidden_size=3, target_size=2)
    assert [extractor.inner[1].out_features, extractor.outer.out_features] == [5, 2]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "guidance: expected {'class_path': ..., 'init_args': {...}}, got {}"),
        ({"class_path": 3}, "guidance: expected"),
        (INFO_NCE | {"dict_kwargs": {}}, "guidance: expected"),
        ({"class_path": "lrkd.losses.NoGuidance"}, "guidance: cannot import 'lrkd.losses.NoGuidance'"),
        ({"class_path": "no_such_package.Guidance"}, "guidance: cannot import 'no_such_package.Guidance'"),
        ({"class_path": "InfoNCEGuidance"}, "guidance: cannot import 'InfoNCEGuidance'"),
        ({"class_path": "lrkd.losses.info_nce"}, "lrkd.losses.info_nce is not a subclass of lrkd.losses.Guidance"),
        ({"class_path": "lrkd.extractors.MLPExtractor"}, "is not a subclass of lrkd.losses.Guidance"),
    ],
)
def test_a_spec_that_names_no_such_component_is_refused(spec, message):
    with pytest.raises(UserError) as error:
        component_factory(spec, Guidance, "guidance")
    assert message in str(error.value)


@pytest.mark.parametrize("value", [None, INFO_NCE])
def test_a_spec_is_kept_as_it_is(value):
    assert component_spec(value, "guidance") is value


def test_a_partial_is_kept_as_a_spec_that_makes_the_same():
    spec = component_spec(functools.partial(InfoNCEGuidance, temperature=0.2), "guidance")
    assert json.loads(json.dumps(spec)) == INFO_NCE
    assert component_factory(spec, Guidance, "guidance")().temperature == 0.2


@pytest.mark.parametrize(
    "value",
    [
        MLPExtractor,
        MLPExtractor(4, 2),
        functools.partial(MLPExtractor, 4),
        functools.partial(MLPExtractor(4, 2)),
        print,
    ],
    ids=["class", "instance", "positional partial", "partial of an instance", "function"],
)
def test_what_would_be_saved_and_then_not_load_is_refused(value):
    with pytest.raises(UserError, match=r"(?s)extractor: a checkpoint cannot keep .*; pass \{'class_path': '"):
        component_spec(value, "extractor")


def test_the_refusal_of_a_class_says_what_to_pass():
    with pytest.raises(
        UserError, match=r"pass \{'class_path': 'lrkd.extractors.mlp.MLPExtractor', 'init_args': \{\}\}"
    ):
        component_spec(MLPExtractor, "extractor")


def test_the_refusal_of_a_partial_names_its_class():
    for value in (functools.partial(MLPExtractor, 4), functools.partial(MLPExtractor(4, 2))):
        with pytest.raises(UserError, match=r"'lrkd\.extractors\.mlp\.MLPExtractor'"):
            component_spec(value, "extractor")


class Outer:
    class Inner(CosineGuidance):
        """A class that its qualified name does not find as module and name."""


def test_a_class_that_cannot_be_imported_again_is_refused():
    class Local(CosineGuidance):
        pass

    for kind in (Local, Outer.Inner):
        with pytest.raises(UserError, match="of a class that stands in a module"):
            component_spec(functools.partial(kind), "guidance")


@pytest.mark.parametrize("argument", [CosineGuidance(), CosineGuidance, [{"a": print}], np.float64(0.1)], ids=str)
def test_arguments_that_would_not_load_are_refused(argument):
    class_path = "lrkd.losses.InfoNCEGuidance"
    for value in (
        functools.partial(InfoNCEGuidance, temperature=argument),
        {"class_path": class_path, "init_args": {"temperature": argument}},
    ):
        with pytest.raises(UserError, match="guidance: init_args that a checkpoint can keep are plain values"):
            component_spec(value, "guidance")


def test_nested_specs_are_plain():
    spec = {"class_path": "a.B", "init_args": {"graph": {"class_path": "a.C", "init_args": {"sizes": [1, (2, None)]}}}}
    assert component_spec(spec, "extractor") is spec


SAVED = {"encoder": "e", "lr": 0.1, "layers": (1, 2), "extractor": INFO_NCE, "encoder_config": {"a": 1}}


@pytest.mark.parametrize(
    "given",
    [{}, {"layers": [1, 2]}, {"encoder_config": {}}, {"_class_path": "x"}, {"added_since": 1}],
    ids=str,
)
def test_the_same_settings_are_accepted(given):  # trap 39
    refuse_different_hyperparameters(SAVED | given, SAVED | {"_instantiator": "lightning"})


def test_different_settings_are_refused_with_both_values():  # trap 39
    given = SAVED | {"lr": 0.5, "extractor": {**INFO_NCE, "init_args": {"temperature": 0.3}}}
    del given["encoder"]
    with pytest.raises(UserError) as error:
        refuse_different_hyperparameters(given, SAVED)
    message = str(error.value)
    assert "lr is 0.5 here and 0.1 there" in message
    assert "encoder is None here and 'e' there" in message
    assert "'temperature': 0.3}} here and" in message
    assert "layers" not in message
