"""CompileEncoder: same values, same checkpoints."""

import lightning as L
import pytest
import torch

from lrkd.data.triples import TripleDataModule
from lrkd.data.types import LabelSet
from lrkd.errors import UserError
from lrkd.student import StudentLRKD
from lrkd.training.compilation import CompileEncoder


def test_compiled_trains_as_plain_and_checkpoints_do_not_tell(
    tiny_encoder, tiny_root, tiny_targets, tmp_path
):  # trap 37
    traced = []

    def backend(graph, inputs):
        from torch._dynamo.backends.debugging import aot_eager

        traced.append(graph)
        return aot_eager(graph, inputs)

    def fit(name, compile_encoder):
        L.seed_everything(0)
        data = TripleDataModule(
            str(tiny_root), tiny_encoder, targets=str(tiny_targets), cache_dir=str(tmp_path / "cache"),
            batch_size=4, max_length=32, query_cap=12,
        )  # fmt: skip
        model = StudentLRKD(
            tiny_encoder, label_set=LabelSet.load("esci").to_dict(), target_size=8,
            extractor={"class_path": "lrkd.extractors.MLPExtractor"},
            guidance={"class_path": "lrkd.losses.MSEGuidance"},
        )  # fmt: skip
        model.encoder.config.hidden_dropout_prob = 0.0
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        trainer = L.Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, callbacks=[CompileEncoder(backend)] if compile_encoder else [],
        )  # fmt: skip
        trainer.fit(model, datamodule=data)
        trainer.save_checkpoint(tmp_path / f"{name}.ckpt")
        return model

    plain, compiled = fit("plain", False), fit("compiled", True)
    assert traced, "the backend was used"
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], value, msg=name, rtol=1e-4, atol=1e-5)
    for model, other in ((plain, "compiled"), (compiled, "plain")):
        model.load_state_dict(torch.load(tmp_path / f"{other}.ckpt", weights_only=True)["state_dict"])
    assert type(StudentLRKD.load_from_checkpoint(tmp_path / "compiled.ckpt").encoder) is type(plain.encoder)


def test_only_a_student_is_compiled():
    with pytest.raises(UserError, match="encoder of a StudentLRKD, not LightningModule"):
        CompileEncoder().setup(L.Trainer(logger=False, accelerator="cpu"), L.LightningModule(), "fit")
