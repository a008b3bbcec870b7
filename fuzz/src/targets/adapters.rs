//! Adapters of `peft`. The input is `adapter_config.json`, a byte 0, and the weights: safetensors, or PyTorch's where they begin as a zip or
//! a pickle does.

use std::fs;

use easyedit::peft::{CONFIG_FILE, ExportOptions, PYTORCH_WEIGHTS_FILE, WEIGHTS_FILE, export, import};
use serde_json::json;

use super::{edits, seed};
use crate::formats::pytorch;
use crate::scratch::{file, folder};
use crate::small_model::{Tensors, model};

pub(super) fn run(data: &[u8]) -> bool {
    let path = folder("adapter");
    let end = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (config, weights) = data.split_at(end);
    let weights = weights.get(1..).unwrap_or_default();
    let is_pickle = weights.starts_with(b"PK") || weights.starts_with(b"\x80\x02");
    file(&path, CONFIG_FILE, config);
    file(&path, if is_pickle { PYTORCH_WEIGHTS_FILE } else { WEIGHTS_FILE }, weights);
    import(&path, model()).is_ok_and(|edit| edit.apply(&mut *model().boxed_clone()).is_ok())
}

pub(super) fn seeds() -> Vec<(String, Vec<u8>)> {
    let path = folder("adapter").join("out");
    export(model(), &[edits::low_rank()], &ExportOptions::default(), &path).unwrap();
    let read = |name: &str| fs::read(path.join(name)).unwrap();
    let config = |more: serde_json::Value| {
        let mut config: serde_json::Value = serde_json::from_slice(&read(CONFIG_FILE)).unwrap();
        more.as_object().into_iter().flatten().for_each(|(key, value)| config[key] = value.clone());
        [config.to_string().into_bytes(), vec![0]].concat()
    };
    let weights = read(WEIGHTS_FILE);
    let module = "base_model.model.model.layers.1.mlp.down_proj";
    let (d_out, d_in) = (model().spec().d_model, model().spec().d_mlp);
    let factors = |e: bool| {
        let mut tensors = Tensors::from([
            (format!("{module}.lora_A{}", if e { "" } else { ".weight" }), (vec![2, d_in], vec![0.1; 2 * d_in])),
            (format!("{module}.lora_B{}", if e { "" } else { ".weight" }), (vec![d_out, 2], vec![0.2; 2 * d_out])),
        ]);
        if e {
            tensors.insert(format!("{module}.lora_E"), (vec![2, 1], vec![1.0, 0.5]));
            tensors.insert(format!("{module}.ranknum"), (vec![], vec![2.0]));
        }
        pytorch(&tensors)
    };
    let patterns = json!({ "use_rslora": true, "rank_pattern": { "layers.1.mlp.down_proj": 1 }, "alpha_pattern": { "down.*": 3 } });
    vec![
        seed("lora", [config(json!({})), weights.clone()].concat()),
        seed("patterns", [config(patterns), weights].concat()),
        seed("lora-pickle", [config(json!({ "r": 2 })), factors(false)].concat()),
        seed("adalora-pickle", [config(json!({ "peft_type": "ADALORA", "init_r": 2, "target_r": 1 })), factors(true)].concat()),
    ]
}
