//! What is kept in the cache folder between runs. The first byte of the input says which file it stands for, and whether its checksum is made
//! to fit; the others of the folder are sound.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use easyedit::kernels::{MomentConfig, MomentQuery, Shard, collect_shard, merge_shards};
use easyedit::{Corpora, Silent};
use serde_json::json;

use super::seed;
use crate::made::{Few, edit, method};
use crate::reseal::resealed;
use crate::scratch::{file, folder};
use crate::small_model::model;

/// The kinds of files, by the folder that they are kept in.
const KINDS: [(u8, &str); 4] = [(b'm', "stats"), (b't', "templates"), (b'v', "values"), (b'i', "ike")];
/// Sums that are not finished, which belong to no folder: they may lie anywhere.
const SUMS: u8 = b's';

pub(super) fn run(data: &[u8]) -> bool {
    let Some((first, content)) = data.split_first() else { return false };
    let kind = first.to_ascii_lowercase();
    let content = if kind == *first { content.to_vec() } else { resealed(content) };
    if kind == SUMS {
        return merge_shards(&[file(&folder("sums"), "1.safetensors", &content)], None).is_ok();
    }
    let Some((_, place)) = KINDS.iter().find(|(known, _)| *known == kind) else { return false };
    let cache = folder("cache");
    let mut replaced = false;
    for (path, bytes) in &kept() {
        let path = cache.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Of each kind the first stands for all.
        let is_meant = !replaced && path.parent().is_some_and(|folder| folder.ends_with(place));
        fs::write(&path, if is_meant { &content } else { bytes }).unwrap();
        replaced |= is_meant;
    }
    fill(if kind == b'i' { "IKE" } else { "MEMIT" }, &cache).is_ok()
}

/// Runs a method whose intermediate results are in the cache, or come there.
fn fill(name: &str, cache: &PathBuf) -> easyedit::Result<easyedit::Edit> {
    let changes = match name {
        "IKE" => json!({ "train_data": "records", "retrieval": "embedding" }),
        _ => json!({ "v_num_grad_steps": 1, "mom2_n_samples": 2, "context_template_length_params": [[4, 5]], "layers": [0] }),
    };
    edit(method(name, &changes), Some(cache))
}

/// The files of a cache folder that was filled, by their paths in it.
fn kept() -> BTreeMap<PathBuf, Vec<u8>> {
    thread_local! {
        static KEPT: BTreeMap<PathBuf, Vec<u8>> = {
            let cache = folder("filled-cache");
            fill("MEMIT", &cache).unwrap();
            fill("IKE", &cache).unwrap();
            let mut files = BTreeMap::new();
            collect(&cache, &cache, &mut files);
            files
        };
    }
    KEPT.with(Clone::clone)
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            files.insert(path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap());
        }
    }
}

fn sums() -> Vec<u8> {
    let path = folder("sums").join("1.safetensors");
    let config = MomentConfig { samples: 2, document_tokens: 16, ..MomentConfig::default() };
    let query = MomentQuery::new("few", config, None);
    let text = Few.text("few").unwrap();
    collect_shard(model(), &[0, 1], &query, &text, Shard::WHOLE, &path, &Silent).unwrap();
    fs::read(path).unwrap()
}

pub(super) fn seeds() -> Vec<(String, Vec<u8>)> {
    let kept = kept();
    let of = |(kind, place): (u8, &'static str)| {
        let (_, bytes) = kept.iter().find(|(path, _)| path.starts_with(place)).unwrap_or_else(|| panic!("nothing is kept in {place}"));
        (kind, place, bytes.clone())
    };
    let mut files: Vec<_> = KINDS.map(of).into();
    files.push((SUMS, "sums", sums()));
    let as_it_is = files.iter().map(|(kind, place, bytes)| seed(*place, [&[*kind], bytes.as_slice()].concat()));
    let resealed = files
        .iter()
        .map(|(kind, place, bytes)| seed(format!("{place}-resealed"), [&[kind.to_ascii_uppercase()], bytes.as_slice()].concat()));
    as_it_is.chain(resealed).collect()
}
