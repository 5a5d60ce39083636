"""torch's attention in an ONNX graph: the same numbers, and no transposes."""

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lrkd.serve.onnx_attention import scaled_dot_product_attention
from lrkd.serve.onnx_model import traced

WIDTH = 8
NAMES = ("query", "key", "value", "seen")


class Attention(nn.Module):
    """As transformers lays it out: products with weights, heads apart, attention, heads together."""

    def __init__(self, heads=4, shared=4, mask=None, **options):
        super().__init__()
        self.heads, self.shared, self.mask, self.options = heads, shared, mask, options

    def forward(self, query, key, value, seen):
        q = query.unflatten(-1, (self.heads, WIDTH)).transpose(1, 2)
        k, v = (x.unflatten(-1, (self.shared, WIDTH)).transpose(1, 2) for x in (key, value))
        seen = seen[:, None, None]
        mask = {None: None, "bool": seen, "float": torch.where(seen, 0.5, -1e4)}[self.mask]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **self.options).transpose(1, 2).flatten(2)


def arguments(module, batch, queries, keys):
    widths = [module.heads * WIDTH, module.shared * WIDTH, module.shared * WIDTH]
    places = [queries, keys, keys]
    tensors = [torch.randn(batch, length, width) for length, width in zip(places, widths, strict=True)]
    return *tensors, torch.arange(keys) < torch.randint(1, keys + 1, (batch, 1))


@pytest.mark.parametrize(
    "module",
    [
        Attention(),
        Attention(mask="bool"),
        Attention(mask="float"),
        Attention(scale=0.7),
        Attention(is_causal=True),
        Attention(heads=4, shared=2, mask="bool", enable_gqa=True),
        Attention(heads=1, shared=1),
    ],
    ids=["plain", "bool mask", "float mask", "scale", "causal", "grouped", "one head"],
)
def test_graph_gives_torchs_numbers_without_transposes(module):
    torch.manual_seed(0)
    model = traced(module, arguments(module, 3, 5, 7), NAMES).model_proto
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Attention") == 1
    assert "Transpose" not in kinds
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    for shape in ((3, 5, 7), (2, 9, 9), (1, 1, 4)):
        given = arguments(module, *shape)
        every = dict(zip(NAMES, given, strict=True))
        found = session.run(None, {name: every[name].numpy() for name in names})
        torch.testing.assert_close(torch.from_numpy(found[0]), module(*given), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fault", [{"dropout_p": 0.5}, {"rank": 3}])
def test_what_has_no_such_form_is_refused(fault):
    query = torch.zeros((2, 4, 5, 8)[-fault.pop("rank", 4) :])
    with pytest.raises(ValueError, match=r"four dimensions .* without dropout"):
        scaled_dot_product_attention(query, query, query, **fault)
