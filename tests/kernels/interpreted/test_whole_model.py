"""A whole small model with its kernels and without: the same loss, masks and gradients."""

import torch

PROJECTOR = ("projector.later_ratio=4", "projector.token_order=column")


def test_loss_masks_and_gradients_do_not_depend_on_the_kernels(tiny_model, sample_batch):
    found = []
    for kernels in ("torch", "triton"):
        model = tiny_model(f"projector.kernels={kernels}", f"backbone.kernels={kernels}", *PROJECTOR)
        with torch.no_grad():
            answer = model(sample_batch())
        out = model(sample_batch())
        out.text.loss.backward()
        gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
        assert model.projector.kernels == kernels and any("projector.visual" in name for name in gradients)
        values = {"loss": out.text.loss, "masks": out.regions.mask_logits, **gradients}
        found.append({"answered loss": answer.text.loss, "answered masks": answer.regions.mask_logits, **values})
    plain, fused = found
    assert plain.keys() == fused.keys()
    for name, value in plain.items():
        torch.testing.assert_close(
            fused[name], value, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
