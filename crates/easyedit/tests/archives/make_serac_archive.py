"""Writes `serac_reference.pt`: an archive of SERAC as EasyEdit's trainer saves it, for the encoder and the model of `data/golden/{distilbert,llama}`.

usage: python make_serac_archive.py

Laid out as `make_archive.py` says. The names are the reference's: `classifier.` and those of a DistilBertModel, `replacement.` and those of a
LlamaForCausalLM, `scale`; the numbers follow a rule, which the test repeats.
"""
import json, os, struct
from collections import OrderedDict
from make_archive import GPT2Config, Tensor, filled, save

def shapes(folder):
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../../data/golden", folder, "model.safetensors")
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    return {name: tensor["shape"] for name, tensor in header.items() if name != "__metadata__"}

def main():
    model = OrderedDict()
    for prefix, folder in [("classifier.", "distilbert"), ("replacement.", "llama")]:
        for place, (name, shape) in enumerate(sorted(shapes(folder).items())):
            model[prefix + name] = filled(shape, place)
    model["scale"] = Tensor([], [1.0])
    model["model_config"] = GPT2Config()
    archive = {"model": model, "opt": {"state": {}, "param_groups": []}, "lr_opt": None, "val_stats": {}, "start_time": "", "elapsed_time": "", "step": 3}
    save("serac_reference.pt", archive)

if __name__ == "__main__": main()
