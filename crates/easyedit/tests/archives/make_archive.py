"""Writes `mend_reference.pt`: an archive as EasyEdit's trainer saves it, for the tiny GPT-2 of `easyedit_models::tiny`.

usage: python make_archive.py

The file is laid out as `torch.save` does it (a zip with `data.pkl` and one entry per storage) without needing torch: stand-ins with
the names of torch's classes are pickled. `model_config` is an object of a package that is not there, as in the real files.
The numbers follow a rule, which the test repeats.
"""
import io, pickle, struct, sys, types, zipfile
from collections import OrderedDict

def module(name):
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        path = ".".join(parts[:i])
        if path not in sys.modules:
            sys.modules[path] = types.ModuleType(path)
    return sys.modules[name]

def stand_in(module_name, name, **fields):
    made = type(name, (), {"__module__": module_name, **fields})
    setattr(module(module_name), name, made)
    return made

FloatStorage = stand_in("torch", "FloatStorage")
def _rebuild_tensor_v2(*_): raise NotImplementedError
_rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
module("torch._utils")._rebuild_tensor_v2 = _rebuild_tensor_v2
GPT2Config = stand_in("transformers.models.gpt2.configuration_gpt2", "GPT2Config")

class Storage:
    def __init__(self, key, values): self.key, self.values = key, values

class Tensor:
    def __init__(self, shape, values):
        self.shape, self.storage = tuple(shape), Storage(str(len(STORAGES)), values)
        STORAGES.append(self.storage)
    def __reduce__(self):
        strides, step = [], 1
        for side in reversed(self.shape): strides.insert(0, step); step *= side
        return _rebuild_tensor_v2, (self.storage, 0, self.shape, tuple(strides), False, OrderedDict())

STORAGES = []

class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        if isinstance(obj, Storage): return ("storage", FloatStorage, obj.key, "cpu", len(obj.values))

def filled(shape, place, base=0.0, scale=0.05):
    count = 1
    for side in shape: count *= side
    return Tensor(shape, [base + scale * (((7 * i + 13 * place) % 19) / 9.5 - 1.0) for i in range(count)])

def save(path, archive):
    data = io.BytesIO()
    Pickler(data, protocol=2).dump(archive)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as out:
        def put(name, content): out.writestr(zipfile.ZipInfo("archive/" + name), content)
        put("data.pkl", data.getvalue())
        put("byteorder", b"little")
        for storage in STORAGES: put("data/" + storage.key, struct.pack(f"<{len(storage.values)}f", *storage.values))
        put("version", b"3\n")

def main():
    width, inner, rank = 32, 64, 2
    model, place = OrderedDict(), 0
    model["edit_lrs"] = filled([4], place, base=2e-3, scale=1e-3)
    for d_in, d_out in [(width, inner), (inner, width)]:
        prefix, w = f"mend.({d_in}, {d_out}).", d_in + d_out
        parts = [("u_mean", [d_in], 0.0), ("v_mean", [d_out], 0.0), ("u_std", [d_in], 1.0), ("v_std", [d_out], 1.0), ("u_s", [d_in], 9.0), ("v_s", [d_out], 9.0)]
        for layer in (0, 1):
            parts += [(f"mlp.layers.{layer}.{n}", s, b) for n, s, b in [("u", [w, rank], 0.0), ("v", [rank, w], 0.0), ("bias", [w], 0.0), ("mode_shift.weight", [2, w], 0.0), ("mode_scale.weight", [2, w], 1.0)]]
        for name, shape, base in parts:
            place += 1
            model[prefix + name] = filled(shape, place, base)
        model[prefix + "k"] = Tensor([1], [10.0])
    config = GPT2Config(); config.n_layer, config.architectures = 3, ["GPT2LMHeadModel"]
    model["model_config"] = config
    optimizer = {"state": {0: {"step": 3, "exp_avg": Tensor([2], [0.5, 0.25])}}, "param_groups": [{"lr": 1e-6, "betas": (0.9, 0.999), "params": [0, 1]}]}
    archive = {"model": model, "opt": optimizer, "lr_opt": None, "val_stats": {"loss/total_edit_val": 0.5}, "start_time": "01/01/2023-00:00:00/000000", "elapsed_time": "0:00:01", "step": 3}
    save("mend_reference.pt", archive)

if __name__ == "__main__": main()
