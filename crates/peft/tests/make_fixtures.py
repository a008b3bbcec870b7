"""Makes the folders in `fixtures` beside this file: adapters, and the logits that Hugging Face `peft` computes with them.

    python crates/peft/tests/make_fixtures.py target/release/easyedit

Needs torch 2.4.1, transformers 4.46.3, peft 0.13.2 and safetensors, and the program. `exported-*` are edits that the program made of models in
`data/golden` and exported; `imported-*` are adapters that `peft` saved. `logits.safetensors` holds row 0 of the golden inputs (for an
encoder-decoder the golden decoder inputs, too) and the logits of the model with the adapter.
"""

import json
import random
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import peft
import torch
import transformers
from peft import AdaLoraConfig, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
FIXTURES = HERE / "fixtures"
GOLDEN = HERE.parents[2] / "data" / "golden"
SEED = 20231024


def model_of(name):
    config = json.loads((GOLDEN / name / "config.json").read_text())
    kind = getattr(transformers, config["architectures"][0])
    # GPT-2's other implementation of attention forgets scale_attn_by_inverse_layer_idx.
    return kind.from_pretrained(GOLDEN / name, torch_dtype=torch.float32, attn_implementation="eager").eval()


def write_logits(model, name, folder):
    golden = load_file(GOLDEN / name / "golden.safetensors")
    inputs = {"input_ids": golden["input_ids"][:1]}
    if "decoder_input_ids" in golden:
        inputs["decoder_input_ids"] = golden["decoder_input_ids"][:1]
    with torch.no_grad():
        logits = model(**inputs, use_cache=False).logits[0]
        with model.disable_adapter():
            before = model(**inputs, use_cache=False).logits[0]
    assert logits.isfinite().all()
    tensors = {key: value[0].contiguous() for key, value in inputs.items()} | {"logits": logits.contiguous()}
    made = {"model": name, "peft": peft.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    save_file(tensors, folder / "logits.safetensors", metadata={"made": json.dumps(made, sort_keys=True)})
    print(f"{folder.name}: the adapter changes logits by up to {(logits - before).abs().max():.3f}")


def run(program, *arguments, folder):
    line = [str(Path(program).resolve()), *arguments]
    subprocess.run(line, cwd=folder, check=True, stdout=subprocess.DEVNULL)


# The last token's states of the last layer reach nothing but the prediction there; so subjects end prompts.
HPARAMS = """alg_name: {method}
layers: {layers}
clamp_norm_factor: 4
fact_token: subject_last
v_num_grad_steps: 20
v_lr: 5e-1
v_loss_layer: 1
v_weight_decay: 1e-3
kl_factor: 0.0625
mom2_adjustment: true
mom2_dataset: text.txt
mom2_n_samples: 40
mom2_dtype: float32
"""
MORE = {
    "ROME": "context_template_length_params: [[3, 3]]\n",
    "MEMIT": "layer_selection: all\nmom2_update_weight: 20\n",
}


def exported(program, name, edits, folder_name):
    """Edits of the golden model by the program, exported by it as one adapter, and loaded by peft."""
    folder = fresh(folder_name)
    model = str(GOLDEN / name)
    draw = random.Random(SEED)
    text = "\n\n".join(" ".join(f"w{draw.randrange(80)}" for _ in range(30)) for _ in range(40))
    facts = [("w10 w11 w12", "w12", "w40"), ("w20 w21 w22", "w22", "w41"), ("w30 w31 w32 w33", "w32 w33", "w42")]
    for method, layers, count in edits:
        with tempfile.TemporaryDirectory() as work:
            work = Path(work)
            (work / "text.txt").write_text(text + "\n")
            requests = [{"prompt": prompt, "subject": subject, "target_new": target} for prompt, subject, target in facts[:count]]
            (work / "requests.json").write_text(json.dumps(requests))
            (work / "hparams.yaml").write_text(HPARAMS.format(method=method, layers=layers) + MORE[method])
            run(program, "edit", "--model", model, "--method", method, "--hparams", "hparams.yaml", "--requests", "requests.json",
                "--mode", "batch" if count > 1 else "independent", "--no-evaluation", "--out", "edits", folder=work)  # fmt: skip
            (edit,) = (work / "edits").glob("*.edit.safetensors")
            shutil.copy(edit, folder / f"{method.lower()}.edit.safetensors")
    files = sorted(file.name for file in folder.glob("*.edit.safetensors"))
    run(program, "export", "--format", "peft", "--model", model, "--base-model", name, "--out", "adapter", *files, folder=folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # peft warns of missing and unexpected keys
        loaded = PeftModel.from_pretrained(model_of(name), folder / "adapter").eval()
    write_logits(loaded, name, folder)


def imported(name, config, folder_name, safe=True, prune=None):
    """An adapter that peft made, with random factors."""
    folder = fresh(folder_name)
    torch.manual_seed(SEED)
    model = get_peft_model(model_of(name), config).eval()
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for key, parameter in sorted(model.named_parameters()):
            if "lora_" in key:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    if prune:
        prune(model)
    model.peft_config["default"].base_model_name_or_path = name
    model.save_pretrained(folder / "adapter", safe_serialization=safe, save_embedding_layers=False)
    (folder / "adapter" / "README.md").unlink(missing_ok=True)
    fresh_model = PeftModel.from_pretrained(model_of(name), folder / "adapter").eval()
    write_logits(fresh_model, name, folder)


def prune_adalora(model):
    """As the allocator leaves it: some singular values are zero, and the pattern says which."""
    pattern, kept = {}, [[True, False, True], [False, True, False]]
    for index, (key, value) in enumerate(sorted(k for k in model.named_parameters() if "lora_E" in k[0])):
        keep = torch.tensor(kept[index % 2])
        value.data[~keep] = 0
        pattern[key.replace("base_model.model.", "")] = keep.tolist()
    model.peft_config["default"].rank_pattern = pattern


def fresh(name):
    folder = FIXTURES / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def main():
    program = sys.argv[1]
    rome, memit = ("ROME", [1], 1), ("MEMIT", [0, 1], 3)
    exported(program, "gpt2", [rome], "exported-gpt2-rome")
    exported(program, "llama", [rome], "exported-llama-rome")
    exported(program, "llama", [memit], "exported-llama-memit")
    exported(program, "gpt2", [memit, rome], "exported-gpt2-both")
    ranks = {"rank_pattern": {"c_attn": 2, "h.1.mlp.c_fc": 5}, "alpha_pattern": {"c_attn": 3}}
    targets = ["c_attn", "c_fc", "mlp.c_proj"]
    imported("gpt2", LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=6, target_modules=targets, fan_in_fan_out=True, **ranks),
             "imported-gpt2-lora")  # fmt: skip
    rooted = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=3, use_rslora=True, target_modules=r"model\.layers\.1\..*_proj")
    imported("llama", rooted, "imported-llama-rslora", safe=False)
    seq2seq = LoraConfig(task_type="SEQ_2_SEQ_LM", r=3, lora_alpha=3, target_modules=["q", "v", "wo"])
    imported("t5", seq2seq, "imported-t5-lora")
    adaptive = AdaLoraConfig(task_type="CAUSAL_LM", init_r=3, target_r=2, lora_alpha=9, target_modules=["q_proj", "down_proj"], total_step=10)
    imported("llama", adaptive, "imported-llama-adalora", prune=prune_adalora)


if __name__ == "__main__":
    main()
