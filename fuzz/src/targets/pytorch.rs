//! A folder with PyTorch's files. The input is `pytorch_model.bin`, or (an object) its index.

use super::checkpoint::open_and_run;
use super::seed;
use crate::formats::{archive, pytorch};
use crate::scratch::{file, folder};
use crate::small_model::{config, tensors, tokenizer_json};

const SHARD: &str = "pytorch_model-00001-of-00001.bin";

pub(super) fn run(data: &[u8]) -> bool {
    let path = folder("pytorch");
    file(&path, "tokenizer.json", tokenizer_json().as_bytes());
    file(&path, "config.json", config("llama").to_string().as_bytes());
    if data.first() == Some(&b'{') {
        file(&path, "pytorch_model.bin.index.json", data);
        file(&path, SHARD, &pytorch(&tensors(&config("llama"))));
    } else {
        file(&path, "pytorch_model.bin", data);
    }
    open_and_run(&path)
}

pub(super) fn seeds() -> Vec<(String, Vec<u8>)> {
    let tensors = tensors(&config("llama"));
    let map: serde_json::Map<String, serde_json::Value> = tensors.keys().map(|name| (name.clone(), SHARD.into())).collect();
    let few = tensors.clone().into_iter().take(2).collect();
    // The format before 1.6: a magic number, a protocol, system information, then the pickle.
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}q\x00.\x80\x02}q\x00.\x80\x02]q\x00.";
    vec![
        seed("model", pytorch(&tensors)),
        seed("two-tensors", pytorch(&few)),
        seed("index", serde_json::json!({ "metadata": {}, "weight_map": map }).to_string()),
        seed(
            "deflated",
            archive(&[("archive/data.pkl", b"\x80\x02}q\x00."), ("archive/version", b"3\n")], zip::CompressionMethod::Deflated),
        ),
        seed("legacy", magic.to_vec()),
    ]
}
