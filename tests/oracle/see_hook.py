"""Print what a line of code reads of TransformerLens' cache, as JSON: python see_hook.py DIR TEXT CODE

Runs where transformer-lens 4 is installed; imports nothing of ours. The text's tokens begin with BOS.
"""

import json
import sys


def main(checkpoint: str, text: str, code: str) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(checkpoint, device="cpu")
    _, cache = bridge.run_with_cache(bridge.to_tokens(text, prepend_bos=True))
    print(json.dumps(eval(code, {"cache": cache})[0].tolist()))


if __name__ == "__main__":
    main(*sys.argv[1:])
