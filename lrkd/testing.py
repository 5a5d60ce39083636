"""``ExtractorContract``: the tests that every extractor passes, this library's and a user's own.

    from lrkd.testing import ExtractorContract

    class TestGatedExtractor(ExtractorContract):
        factory = staticmethod(functools.partial(GatedExtractor, temperature=0.7))

pytest collects the inherited tests. Override the sizes to suit the extractor.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from lrkd.extractors import Extractor, TokenStates


def example_tokens(batch: int, length: int, hidden_size: int, *, seed: int = 0) -> TokenStates:
    """Random token states of ``batch`` pairs with different numbers of real tokens, laid out as a tokenizer does.

    Args:
        batch: B.
        length: L, at least 6; the first pair fills it.
        hidden_size: H.
        seed: Of states and lengths.
    """
    generator = torch.Generator().manual_seed(seed)
    real = torch.randint(6, length + 1, (batch,), generator=generator)
    real[0] = length
    place = torch.arange(length).expand(batch, length)
    mask = place < real[:, None]
    segments = torch.where(place < real[:, None] // 2, 0, 1)
    special = (place == 0) | (place == real[:, None] // 2) | (place >= real[:, None] - 1)
    return TokenStates(
        states=torch.randn(batch, length, hidden_size, generator=generator),
        mask=mask,
        segments=segments.masked_fill(special, -1),
        ids=torch.randint(5, 500, (batch, length), generator=generator).masked_fill(~mask, 0),
    )


def select(tokens: TokenStates, rows: slice, *, pads: int = 0) -> TokenStates:
    """Some pairs of a batch, with ``pads`` further padding positions that hold arbitrary values."""
    return TokenStates(
        states=nn.functional.pad(tokens.states[rows], (0, 0, 0, pads), value=7.0),
        mask=nn.functional.pad(tokens.mask[rows], (0, pads), value=False),
        segments=nn.functional.pad(tokens.segments[rows], (0, pads), value=-1),
        ids=nn.functional.pad(tokens.ids[rows], (0, pads), value=0),
    )


class ExtractorContract:
    """What must hold for every extractor. Subclass it and set ``factory``.

    Attributes:
        factory: Makes the extractor from hidden_size, target_size and num_perspectives (named).
        hidden_size: H of the tests.
        target_size: R of the tests.
        perspectives: The numbers of latents P that are tested.
        tolerance: How far latents may be apart that should be equal.
    """

    factory: ClassVar[Callable[..., Extractor]]
    hidden_size: int = 32
    target_size: int = 24
    perspectives: tuple[int, ...] = (1, 3)
    tolerance: float = 1e-5

    def extractors(self) -> list[Extractor]:
        """A freshly made extractor for each number of perspectives, in eval mode."""
        torch.manual_seed(0)
        return [
            type(self)
            .factory(hidden_size=self.hidden_size, target_size=self.target_size, num_perspectives=number)
            .eval()
            for number in self.perspectives
        ]

    def tokens(self, batch: int = 5, length: int = 17) -> TokenStates:
        """A batch to try on."""
        return example_tokens(batch, length, self.hidden_size)

    def _close(self, one: Tensor, other: Tensor) -> None:
        torch.testing.assert_close(one, other, atol=self.tolerance, rtol=self.tolerance)

    def test_is_an_extractor_that_knows_its_sizes(self) -> None:
        """It derives from Extractor and passes the sizes on."""
        for extractor, number in zip(self.extractors(), self.perspectives, strict=True):
            assert isinstance(extractor, Extractor)
            sizes = (extractor.hidden_size, extractor.target_size, extractor.num_perspectives)
            assert sizes == (self.hidden_size, self.target_size, number), "pass the sizes to super().__init__"

    def test_shape_and_dtype(self) -> None:
        """(B, P, R), floating point, for any batch and length."""
        for extractor in self.extractors():
            for batch, length in ((1, 6), (5, 17)):
                latents = extractor(self.tokens(batch, length))
                assert latents.shape == (batch, extractor.num_perspectives, self.target_size)
                assert latents.is_floating_point()

    def test_padding_changes_nothing(self) -> None:
        """50 more pads with arbitrary states leave the latents (trap 21)."""
        tokens = self.tokens()
        for extractor in self.extractors():
            self._close(extractor(tokens), extractor(select(tokens, slice(None), pads=50)))

    def test_other_rows_change_nothing(self) -> None:
        """A pair alone has the latents that it has in a batch (trap 21)."""
        tokens = self.tokens()
        for extractor in self.extractors():
            together = extractor(tokens)
            for row in range(len(tokens.mask)):
                self._close(extractor(select(tokens, slice(row, row + 1))), together[row : row + 1])

    def test_reads_the_tokens(self) -> None:
        """Other states give other latents."""
        tokens = self.tokens()
        for extractor in self.extractors():
            before = extractor(tokens)
            other = example_tokens(len(tokens.mask), tokens.mask.shape[1], self.hidden_size, seed=0)
            other.states = tokens.states.flip(-1)
            assert not torch.allclose(before, extractor(other), atol=1e-4)

    def test_gradient_reaches_every_parameter_and_the_states(self) -> None:
        """In train mode, from every latent."""
        for extractor in self.extractors():
            extractor.train()
            tokens = self.tokens()
            tokens.states.requires_grad_()
            weight = torch.randn(extractor.num_perspectives, self.target_size)
            (extractor(tokens) * weight).sum().backward()
            strongest = max(float(p.grad.abs().max()) for p in extractor.parameters() if p.grad is not None)
            silent = [
                name
                for name, p in extractor.named_parameters()
                if p.requires_grad and (p.grad is None or p.grad.abs().max() <= 1e-6 * strongest)
            ]
            assert not silent, f"no gradient reaches {silent}"
            assert tokens.states.grad is not None
            assert tokens.states.grad.any()

    def test_finite_on_one_token_rows(self) -> None:
        """A row with a single real token gives finite latents and gradients."""
        for extractor in self.extractors():
            tokens = self.tokens(batch=2, length=6)
            tokens.mask[1, 1:] = False
            tokens.segments[1] = -1
            tokens.states.requires_grad_()
            latents = extractor(tokens)
            latents.square().sum().backward()
            assert torch.isfinite(latents).all()
            assert tokens.states.grad is not None
            assert torch.isfinite(tokens.states.grad).all()

    def test_reload(self) -> None:
        """The state dict, saved and loaded as a checkpoint is, gives the same latents in a new extractor."""
        tokens = self.tokens()
        for extractor, number in zip(self.extractors(), self.perspectives, strict=True):
            file = io.BytesIO()
            torch.save(extractor.state_dict(), file)
            file.seek(0)
            torch.manual_seed(1)
            twin = type(self).factory(
                hidden_size=self.hidden_size, target_size=self.target_size, num_perspectives=number
            )
            twin.load_state_dict(torch.load(file, weights_only=True))
            assert torch.equal(extractor(tokens), twin.eval()(tokens))

    def test_onnx_export(self) -> None:
        """It exports with dynamic batch and length, and onnxruntime agrees at other shapes."""
        for extractor in self.extractors():
            run = export_to_onnx(extractor, self.tokens(batch=3, length=11))
            for batch, length in ((1, 6), (4, 19)):
                tokens = self.tokens(batch, length)
                torch.testing.assert_close(run(tokens), extractor(tokens).detach(), atol=1e-4, rtol=1e-4)


class _Flat(nn.Module):
    """An extractor with tensors for arguments, as exporters want it."""

    def __init__(self, extractor: Extractor) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, states: Tensor, mask: Tensor, segments: Tensor, ids: Tensor) -> Tensor:
        latents: Tensor = self.extractor(TokenStates(states, mask, segments, ids))
        return latents


def export_to_onnx(extractor: Extractor, tokens: TokenStates) -> Callable[[TokenStates], Tensor]:
    """Export as ``python -m lrkd export`` does, batch and length dynamic.

    Args:
        extractor: In eval mode.
        tokens: An example; at least two pairs, so that the batch is not taken for a constant.

    Returns:
        A function that runs the exported graph in onnxruntime on other token states.
    """
    import onnxruntime

    from lrkd.serve.onnx_model import traced

    names = ("states", "mask", "segments", "ids")
    program = traced(_Flat(extractor), tuple(getattr(tokens, name) for name in names), names)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    used = {node.name for node in session.get_inputs()}

    def run(other: TokenStates) -> Tensor:
        feed = {name: getattr(other, name).numpy() for name in names if name in used}
        return torch.from_numpy(session.run(None, feed)[0])

    return run
