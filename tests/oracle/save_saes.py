"""Make tiny SAEs and transcoders with the libraries themselves: python save_saes.py OUT [CIRCUIT_TRACER]

Runs where sae-lens and eai-sparsify are installed; imports nothing of ours. CIRCUIT_TRACER is a folder with that
package alone. OUT/NAME/sae is what the library saves of each, with all parameters random; OUT/NAME/seen.npz has vectors
x (P, D) and what its own encode makes of them, activations (P, F). OUT/hooks.json lists the hook points of
TransformerLens.
"""

import json
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

D, F, P = 12, 20, 64
HOOK = "blocks.1.hook_resid_post"

Made = tuple[str, Callable[[Path], None], Callable[[torch.Tensor], torch.Tensor]]  # name, save, encode


def main(out: Path, circuit_tracer: Path | None) -> None:
    torch.manual_seed(0)
    x = torch.randn(P, D) * 2 + 0.3
    made = [*sae_lens(x), *sparsify()]
    if circuit_tracer is not None:
        made += transcoders(circuit_tracer)
    for name, save, encode in made:
        (out / name / "sae").mkdir(parents=True)
        save(out / name / "sae")
        with torch.no_grad():
            np.savez(out / name / "seen.npz", x=x.numpy(), activations=encode(x).numpy())
    (out / "hooks.json").write_text(json.dumps(hooks()))


def randomised(module: torch.nn.Module) -> Any:
    """The module with random parameters; thresholds above 0."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.rand_like(parameter) if "threshold" in name else torch.randn_like(parameter) * 0.5)
    return module


def sae_lens(x: torch.Tensor) -> Iterator[Made]:
    from sae_lens import SAE
    from sae_lens.registry import get_sae_class, get_sae_training_class
    from sae_lens.saes.sae import SAEMetadata

    kinds: dict[str, dict[str, Any]] = {
        "standard": {"apply_b_dec_to_input": True},
        "standard+none": {"apply_b_dec_to_input": False},
        "standard+layer_norm": {"normalize_activations": "layer_norm"},
        "standard+constant_norm_rescale": {"normalize_activations": "constant_norm_rescale"},
        "jumprelu": {"apply_b_dec_to_input": False},
        "jumprelu+layer_norm": {"normalize_activations": "layer_norm"},
        "topk": {"k": 4},
        "topk+rescaled": {"k": 4, "rescale_acts_by_decoder_norm": True},
        "gated": {},
        "gated+constant_norm_rescale": {
            "normalize_activations": "constant_norm_rescale",
            "apply_b_dec_to_input": False,
        },
        "transcoder": {"d_out": D + 1, "apply_b_dec_to_input": False},
        "skip_transcoder": {"d_out": D, "apply_b_dec_to_input": False},
        "jumprelu_transcoder": {"d_out": D, "apply_b_dec_to_input": False},
        "jumprelu_skip_transcoder": {"d_out": D, "apply_b_dec_to_input": False},
    }
    metadata = {"model_name": "pythia-14m", "hook_name": HOOK}
    for name, fields in kinds.items():
        kind, config = get_sae_class(name.split("+")[0])
        sae = randomised(kind(config(d_in=D, d_sae=F, metadata=SAEMetadata(**metadata), **fields)))
        yield f"saelens-{name}", sae.save_model, sae.encode
    scaled = randomised(SAE.from_dict({**sae.cfg.to_dict(), "architecture": "standard"}))
    scaled.fold_activation_norm_scaling_factor(0.37)
    yield "saelens-standard+scaled", scaled.save_model, scaled.encode
    for name in ("batchtopk", "matryoshka_batchtopk"):
        kind, config = get_sae_training_class(name)
        widths = {"matryoshka_widths": [F // 2, F]} if "matryoshka" in name else {}
        sae = randomised(kind(config(d_in=D, d_sae=F, k=3, metadata=SAEMetadata(**metadata), **widths)))
        sae.topk_threshold.fill_(0.8)

        def encode(x: torch.Tensor, sae: Any = sae) -> torch.Tensor:
            import tempfile

            with tempfile.TemporaryDirectory() as folder:
                sae.save_inference_model(folder)
                return SAE.load_from_disk(folder).encode(x)

        yield f"saelens-{name}", sae.save_model, encode
        yield f"saelens-{name}+finished", sae.save_inference_model, encode


def sparsify() -> Iterator[Made]:
    from sparsify import SparseCoder, SparseCoderConfig

    for name, fields in {
        "layers.1": {},
        "layers.1.mlp": {"transcode": True, "skip_connection": True},
        "h.1.mlp": {"expansion_factor": 2},
    }.items():
        sizes = {} if "expansion_factor" in fields else {"num_latents": F}
        coder = randomised(SparseCoder(D, SparseCoderConfig(k=5, **sizes, **fields)))

        def encode(x: torch.Tensor, coder: Any = coder) -> torch.Tensor:
            found = coder.encode(x)
            return torch.zeros(len(x), coder.num_latents).scatter(1, found.top_indices, found.top_acts)

        yield f"sparsify-{name}", lambda folder, coder=coder, name=name: coder.save_to_disk(folder / name), encode


def transcoders(package: Path) -> Iterator[Made]:
    """Of circuit-tracer, whose package itself would import all that it runs on."""
    for name in ("circuit_tracer", "circuit_tracer.transcoder", "circuit_tracer.utils"):
        module = types.ModuleType(name)
        module.__path__ = [str(package / name.replace(".", "/"))]
        sys.modules[name] = module
    sys.modules["circuit_tracer.utils"].get_default_device = lambda: torch.device("cpu")  # type: ignore[attr-defined]
    from circuit_tracer.transcoder.activation_functions import JumpReLU
    from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder
    from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder

    def configured(folder: Path, hook: str) -> None:
        (folder / "config.yaml").write_text(f"model_name: pythia-14m\nfeature_input_hook: {hook}\n")

    for name, function in {"relu": torch.relu, "jumprelu": JumpReLU(torch.zeros(F), 0.1)}.items():
        one = randomised(SingleLayerTranscoder(D, F, function, 1, dtype=torch.float32, skip_connection=name == "relu"))

        def save(folder: Path, one: Any = one) -> None:
            one.to_safetensors(str(folder / "layer_1.safetensors"))
            configured(folder, "mlp.hook_in")

        yield f"circuit-tracer-{name}", save, one.encode
    for function in ("relu", "jump_relu"):
        sizes = {"activation_function": function, "lazy_decoder": False, "dtype": torch.float32}
        many = randomised(CrossLayerTranscoder(3, F, D, **sizes))

        def save_all(folder: Path, many: Any = many) -> None:
            many.to_safetensors(str(folder))
            configured(folder, "hook_resid_mid")

        yield f"cross-layer-{function}", save_all, lambda x, many=many: many.encode_layer(x, 1)


def hooks() -> list[str]:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(
        n_layers=2, d_model=8, n_ctx=8, d_head=4, n_heads=2, d_vocab=16, act_fn="gelu", normalization_type="LN"
    )
    return sorted(HookedTransformer(config).hook_dict)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
