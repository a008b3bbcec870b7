//! A folder with safetensors. The input is the weights, the index of two shards (an object with `weight_map`), or `config.json` (any
//! other object); the rest is sound.

use std::collections::BTreeMap;

use safetensors::Dtype;
use serde_json::{Value, json};

use super::checkpoint::open_and_run;
use super::seed;
use crate::scratch::{file, folder};
use crate::small_model::{Tensors, config, tensors, tokenizer_json};
use crate::{formats, small_model};

/// Families whose configuration may be the input.
const FAMILIES: [&str; 8] = ["llama", "gpt2", "qwen2", "gpt_neox", "gpt_neo", "opt", "t5", "chatglm"];
const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

pub(super) fn run(data: &[u8]) -> bool {
    let path = folder("safetensors");
    file(&path, "tokenizer.json", tokenizer_json().as_bytes());
    let config = config("llama").to_string().into_bytes();
    let is_text = data.first() == Some(&b'{');
    let is_index = is_text && data.windows(10).any(|window| window == b"weight_map");
    file(&path, "config.json", if is_text && !is_index { data } else { &config });
    if is_index {
        file(&path, "model.safetensors.index.json", data);
        for (name, shard) in SHARDS.iter().zip(shards()) {
            file(&path, name, &formats::safetensors(&shard, Dtype::F32, None));
        }
    } else if is_text {
        file(&path, "model.safetensors", &weights(&meant(data), Dtype::F32));
    } else {
        file(&path, "model.safetensors", data);
    }
    open_and_run(&path)
}

/// The sound configuration of the family that one names.
fn meant(config: &[u8]) -> Value {
    let named: Value = serde_json::from_slice(config).unwrap_or_default();
    let family = FAMILIES.into_iter().find(|family| named["model_type"] == *family);
    small_model::config(family.unwrap_or(FAMILIES[0]))
}

fn weights(config: &Value, dtype: Dtype) -> Vec<u8> {
    formats::safetensors(&tensors(config), dtype, Some([("format".to_owned(), "pt".to_owned())].into()))
}

/// The tensors in two halves.
fn shards() -> [Tensors; 2] {
    let mut first = tensors(&config("llama"));
    let middle = first.keys().nth(first.len() / 2).cloned().unwrap();
    let second = first.split_off(&middle);
    [first, second]
}

pub(super) fn seeds() -> Vec<(String, Vec<u8>)> {
    let map: BTreeMap<String, &str> =
        shards().into_iter().zip(SHARDS).flat_map(|(shard, name)| shard.into_keys().map(move |key| (key, name))).collect();
    let index = json!({ "metadata": { "total_size": 4000 }, "weight_map": map });
    let mut seeds = vec![seed("index", index.to_string())];
    seeds.extend([Dtype::F32, Dtype::F16, Dtype::BF16].map(|dtype| seed(format!("weights-{dtype:?}"), weights(&config("llama"), dtype))));
    for family in FAMILIES {
        seeds.push(seed(format!("config-{family}"), small_model::config(family).to_string()));
    }
    seeds
}
