//! Second moments against brute force, and whatever must not change a bit of them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use burn::tensor::Tensor;
use easyedit_core::{
    Capture, Corpora, CorpusText, Error, LanguageModel, Module, Pass, Probe, Progress, Result, SELF_CORPUS, Silent, Site, TokenBatch,
    tensor_values,
};
use easyedit_kernels::{
    EasyEditStats, FoundMoments, MomentConfig, MomentNeeds, MomentQuery, SecondMoments, Shard, collect_shard, find_moments, import_npz,
    merge_shards, needed_moments, read_npz, write_npz,
};
use easyedit_models::tiny::tiny_model;

const FAMILIES: [&str; 2] = ["gpt2", "llama"];
const LAYER: usize = 1;

/// One text for every name, as if it had that name.
struct OneText(Vec<String>);

impl Corpora for OneText {
    fn documents(&self, _: &str) -> Result<Vec<String>> {
        Ok(self.0.clone())
    }
}

/// No text, whatever it is called.
struct NoText;

impl Corpora for NoText {
    fn documents(&self, name: &str) -> Result<Vec<String>> {
        Err(Error::hparams(format!("there is no corpus {name}")))
    }
}

/// Documents of different lengths.
fn documents(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("Document {i} says {}.", "word ".repeat(i * 7 % 11))).collect()
}

/// Few tokens at once, so that there are many chunks.
fn config() -> MomentConfig {
    MomentConfig { chunk_tokens: Some(40), ..MomentConfig::default() }
}

fn find(model: &dyn LanguageModel, corpora: &dyn Corpora, config: MomentConfig, cache: Option<&Path>) -> FoundMoments {
    find_moments(model, &[LAYER], &MomentQuery::new("test", config, cache), corpora, &Silent).unwrap().remove(&LAYER).unwrap()
}

#[test]
fn moments_are_the_mean_of_outer_products_over_real_tokens() {
    let documents: Vec<String> = ["A first text.", "And a second, longer text.", "x"].map(str::to_owned).into();
    for family in FAMILIES {
        let model = tiny_model(family, 6).unwrap();
        let config = MomentConfig { chunk_tokens: Some(20), ..MomentConfig::default() };
        let both = SecondMoments::collect(model.as_ref(), &[0, LAYER], &documents, &config, &Silent).unwrap();
        let width = model.spec().d_mlp;
        let mut sum = vec![0f64; width * width];
        let mut tokens = 0;
        for document in &documents {
            let ids = model.tokenizer().encode(document).unwrap().ids;
            let site = Site::new(LAYER, Module::MlpKey);
            let mut capture = Capture::new([site]);
            let mut pass = Pass::new(TokenBatch::new(&[ids]).unwrap(), &model.device());
            model.hidden(&mut pass, &mut capture).unwrap();
            for key in tensor_values(capture.get(site).unwrap()).unwrap().chunks_exact(width) {
                tokens += 1;
                for (r, a) in key.iter().enumerate() {
                    for (c, b) in key.iter().enumerate() {
                        sum[r * width + c] += f64::from(*a) * f64::from(*b);
                    }
                }
            }
        }
        assert_eq!(both[&LAYER].tokens(), tokens);
        let mean = both[&LAYER].mean();
        for (index, (got, want)) in mean.iter().zip(&sum).enumerate() {
            assert!((f64::from(*got) - want / tokens as f64).abs() < 1e-5);
            assert_eq!(*got, mean[index % width * width + index / width], "symmetric to the bit");
        }
        let alone = SecondMoments::collect(model.as_ref(), &[0], &documents, &config, &Silent).unwrap();
        assert_eq!(alone[&0], both[&0], "one pass for several layers gives what one pass each gives");
    }
}

#[test]
fn chunks_of_any_size_count_the_same_tokens() {
    let model = tiny_model("llama", 3).unwrap();
    let collect = |chunk_tokens| {
        let config = MomentConfig { chunk_tokens, ..MomentConfig::default() };
        SecondMoments::collect(model.as_ref(), &[LAYER], &documents(30), &config, &Silent).unwrap().remove(&LAYER).unwrap()
    };
    let whole = collect(None);
    for size in [1, 64, 500] {
        let other = collect(Some(size));
        assert_eq!(other.tokens(), whole.tokens());
        assert!(other.mean().iter().zip(whole.mean()).all(|(a, b)| (a - b).abs() < 1e-5), "chunks of {size} tokens");
    }
}

#[test]
fn a_pass_ends_in_the_middle_of_a_block_where_a_probe_says_so() {
    #[derive(Default)]
    struct Until(Vec<Site>, bool);
    impl Probe for Until {
        fn at(&mut self, site: Site, x: Tensor<2>) -> Tensor<2> {
            self.1 |= site == Site::new(LAYER, Module::MlpKey);
            self.0.push(site);
            x
        }
        fn is_done(&self) -> bool {
            self.1
        }
        fn ends_at(&self, _: Site) -> bool {
            self.1
        }
    }
    for family in ["gpt2", "llama", "mistral", "qwen2", "baichuan", "internlm", "chatglm", "gptj", "gpt_neox", "gpt_neo", "opt"] {
        let model = tiny_model(family, 2).unwrap();
        let mut pass = Pass::new(TokenBatch::new(&[[1u32, 2, 3]]).unwrap(), &model.device());
        let mut probe = Until::default();
        model.hidden(&mut pass, &mut probe).unwrap();
        assert_eq!(probe.0.last(), Some(&Site::new(LAYER, Module::MlpKey)), "{family}");
        assert!(probe.0.contains(&Site::new(LAYER - 1, Module::MlpOutput)), "{family}");
    }
}

#[test]
fn statistics_come_from_the_cache_until_the_model_or_the_text_changes() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = tiny_model("llama", 7).unwrap();
    let text = OneText(vec!["Some text to count over.".to_owned()]);
    let cached = |model: &dyn LanguageModel, text: &OneText| {
        let found = find(model, text, MomentConfig::default(), Some(folder.path()));
        (found.moments, found.file.unwrap())
    };
    let (first, path) = cached(model.as_ref(), &text);
    let written = std::fs::metadata(&path).unwrap().modified().unwrap();
    let (again, same) = cached(model.as_ref(), &text);
    assert_eq!((&again, &same), (&first, &path));
    assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), written, "not collected again");
    std::fs::write(&path, b"damaged").unwrap();
    assert_eq!(cached(model.as_ref(), &text).0, first, "a damaged file is replaced");
    let mut flipped = std::fs::read(&path).unwrap();
    let place = flipped.len() - 2;
    flipped[place] ^= 1;
    std::fs::write(&path, flipped).unwrap();
    assert_eq!(cached(model.as_ref(), &text).0, first, "a flipped bit is noticed");
    assert_ne!(cached(model.as_ref(), &OneText(vec!["Other text.".to_owned()])).1, path);
    let deeper = model.spec().mlp_out_weight(model.spec().n_layers - 1);
    let weight = model.weight(&deeper).unwrap();
    model.set_weight(&deeper, weight * 2.0).unwrap();
    assert_eq!(cached(model.as_ref(), &text).1, path, "layers above do not matter");
    let below = model.spec().mlp_out_weight(0);
    let weight = model.weight(&below).unwrap();
    model.set_weight(&below, weight * 2.0).unwrap();
    assert_ne!(cached(model.as_ref(), &text).1, path);
    assert_eq!(unfinished(folder.path()), 0, "no sums are left behind");
}

/// Number of files of sums in a cache folder.
fn unfinished(cache: &Path) -> usize {
    let entries = std::fs::read_dir(cache.join("stats")).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("unfinished")).count()
}

#[test]
fn statistics_need_text() {
    let model = tiny_model("gpt2", 8).unwrap();
    let none = SecondMoments::collect(model.as_ref(), &[0], &[], &MomentConfig::default(), &Silent);
    assert!(none.unwrap_err().to_string().contains("no text"));
    let deep = SecondMoments::collect(model.as_ref(), &[99], &["x".to_owned()], &MomentConfig::default(), &Silent);
    assert!(deep.unwrap_err().to_string().contains("layer 99"));
}

#[test]
fn damaged_weights_are_told() {
    let mut model = tiny_model("llama", 8).unwrap();
    let name = model.spec().mlp_out_weight(0);
    let weight = model.weight(&name).unwrap();
    model.set_weight(&name, weight * f32::NAN).unwrap();
    let error = SecondMoments::collect(model.as_ref(), &[0, LAYER], &documents(2), &config(), &Silent).unwrap_err();
    assert!(error.to_string().contains("layer 1 are not finite"), "{error}");
}

/// Collects `of` shards into `folder`, last first.
fn shards(model: &dyn LanguageModel, text: &CorpusText, config: &MomentConfig, of: usize, folder: &Path) -> Vec<PathBuf> {
    let query = MomentQuery::new("test", config.clone(), Some(folder));
    let collect = |index| {
        let path = folder.join(format!("shard-{index}-of-{of}"));
        let shard = Shard::new(index, of).unwrap();
        let report = collect_shard(model, &[0, LAYER], &query, text, shard, &path, &Silent).unwrap();
        assert_eq!((report.shard, report.chunks.0 == 0), (shard, report.tokens == 0));
        path
    };
    (1..=of).rev().map(collect).collect()
}

#[test]
fn shards_give_the_bits_of_one_run() {
    let model = tiny_model("llama", 11).unwrap();
    let text = CorpusText::Documents(documents(40));
    let folder = tempfile::tempdir().unwrap();
    let whole = find(model.as_ref(), &OneText(documents(40)), config(), Some(folder.path()));
    let whole = std::fs::read(whole.file.unwrap()).unwrap();
    for of in [1, 2, 8, 300] {
        let folder = tempfile::tempdir().unwrap();
        let paths = shards(model.as_ref(), &text, &config(), of, folder.path());
        let merged = merge_shards(&paths, Some(folder.path())).unwrap();
        let (module, found) = &merged.layers[&LAYER];
        assert_eq!((merged.layers.len(), module.as_str()), (2, "model.layers.1.mlp.down_proj"));
        assert!(std::fs::read(found.file.as_ref().unwrap()).unwrap() == whole, "{of} shards");
        if of == 300 {
            assert!(paths.len() > 40, "more shards than chunks are no fault");
        }
    }
}

/// Asks the work to end at its third chunk, and notes the steps that the sums have left.
#[derive(Default)]
struct ThirdChunk {
    left: AtomicU64,
    done: AtomicU64,
    chunks: AtomicU64,
}

impl Progress for ThirdChunk {
    fn begin(&self, _: &str, total: Option<u64>) {
        self.left.store(total.unwrap(), Ordering::Relaxed);
    }

    fn advance(&self, steps: u64) {
        self.done.fetch_add(steps, Ordering::Relaxed);
        self.chunks.fetch_add(1, Ordering::Relaxed);
    }

    fn remark(&self, _: &str) {}

    fn end(&self) {}

    fn is_cancelled(&self) -> bool {
        self.chunks.load(Ordering::Relaxed) == 3
    }
}

#[test]
fn sums_are_kept_when_they_are_cancelled() {
    let model = tiny_model("llama", 11).unwrap();
    let corpora = OneText(documents(40));
    let folder = tempfile::tempdir().unwrap();
    // No checkpoint is due before the end.
    let query = MomentQuery { checkpoint: Duration::from_secs(1 << 20), ..MomentQuery::new("test", config(), Some(folder.path())) };
    let collect = |progress: &ThirdChunk| find_moments(model.as_ref(), &[LAYER], &query, &corpora, progress);
    let first = ThirdChunk::default();
    assert!(matches!(collect(&first), Err(Error::Cancelled)));
    assert_eq!(unfinished(folder.path()), 1);
    let second = ThirdChunk::default();
    assert!(matches!(collect(&second), Err(Error::Cancelled)));
    let [left, done] = [first.left, first.done].map(AtomicU64::into_inner);
    assert_eq!(second.left.into_inner(), left - done);
    let found = find_moments(model.as_ref(), &[LAYER], &query, &corpora, &Silent).unwrap().remove(&LAYER).unwrap();
    assert_eq!(found.moments, find(model.as_ref(), &corpora, config(), None).moments);
    assert_eq!(unfinished(folder.path()), 0);
}

#[test]
fn shards_that_do_not_belong_together_are_named() {
    let model = tiny_model("llama", 12).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let text = CorpusText::Documents(documents(20));
    let paths = shards(model.as_ref(), &text, &config(), 3, folder.path());
    let fails = |paths: &[PathBuf], parts: &[&str]| {
        let message = merge_shards(paths, None).unwrap_err().to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    };
    fails(&[], &["no shards"]);
    fails(&paths[1..], &["missing: 3/3"]);
    fails(&paths[..1], &["missing: 1/3, 2/3"]);
    fails(&shards(model.as_ref(), &text, &config(), 40, folder.path())[..5], &["missing: 1/40, 2/40", "and 25 more"]);
    fails(&[paths[0].clone(), paths[1].clone(), paths[0].clone()], &["shard-3-of-3", "once more"]);
    fails(&[folder.path().join("nowhere")], &["nowhere"]);
    std::fs::write(folder.path().join("other"), "text").unwrap();
    fails(&[paths[0].clone(), folder.path().join("other")], &["other", "no file of sums"]);
    let foreign = tempfile::tempdir().unwrap();
    let with = |model: &dyn LanguageModel, count, config: &MomentConfig, of| {
        shards(model, &CorpusText::Documents(documents(count)), config, of, foreign.path()).remove(0)
    };
    for (path, part) in [
        (with(model.as_ref(), 21, &config(), 3), "another model, text or other settings"),
        (with(model.as_ref(), 20, &config(), 4), "another number of shards"),
        (with(tiny_model("llama", 13).unwrap().as_ref(), 20, &config(), 5), "another model"),
        (with(model.as_ref(), 20, &MomentConfig { chunk_tokens: Some(41), ..config() }, 6), "other settings"),
    ] {
        fails(&[paths[0].clone(), path.clone()], &[path.to_str().unwrap(), paths[0].to_str().unwrap(), part]);
    }
    let query = MomentQuery::new("test", config(), None);
    let error = collect_shard(model.as_ref(), &[LAYER], &query, &text, Shard::new(1, 3).unwrap(), &paths[0], &Silent).unwrap_err();
    assert!(error.to_string().contains("holds other sums"), "{error}");
}

#[test]
fn the_model_writes_its_own_text_the_same_for_the_same_seed() {
    let model = tiny_model("llama", 14).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let collect = |seed, cache: Option<&Path>| {
        let config = MomentConfig { tokens: Some(300), seed, ..config() };
        let query = MomentQuery::new(SELF_CORPUS, config, cache);
        find_moments(model.as_ref(), &[LAYER], &query, &NoText, &Silent).unwrap().remove(&LAYER).unwrap().moments
    };
    let one = collect(1, None);
    assert_eq!((one.tokens(), collect(1, None) == one), (300, true));
    assert_ne!(collect(2, None), one);
    assert_eq!(collect(1, Some(folder.path())), one);
    let kept: Vec<PathBuf> = std::fs::read_dir(folder.path().join("stats")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let is_text = |path: &&PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("self-written");
    let text = kept.iter().find(is_text).expect("the text is kept");
    for path in kept.iter().filter(|path| *path != text) {
        std::fs::remove_file(path).unwrap();
    }
    assert_eq!(collect(1, Some(folder.path())), one, "from the kept text");
    let mut flipped = std::fs::read(text).unwrap();
    let place = flipped.len() - 9;
    flipped[place] ^= 1;
    std::fs::write(text, flipped).unwrap();
    let statistics = kept.iter().find(|path| *path != text).unwrap();
    std::fs::remove_file(statistics).unwrap();
    assert_eq!(collect(1, Some(folder.path())), one, "a text with a flipped bit is written anew");
}

#[test]
fn files_that_numpy_wrote_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let want: Vec<f32> = (0..25)
        .map(|i| {
            let (r, c) = (i / 5, i % 5);
            ((r * c) as f32 + if r == c { 8.0 } else { 0.5 }) / 4.0
        })
        .collect();
    for (name, sample_size) in [("mom2_float32.npz", Some(100_000)), ("mom2_float64_compressed_all.npz", None)] {
        let read = read_npz(&folder.join(name), 5).unwrap();
        assert_eq!((read.sample_size, read.moments.tokens(), read.moments.size()), (sample_size, 4, 5), "{name}");
        assert_eq!(read.moments.mean(), want, "{name}");
    }
    let message = read_npz(&folder.join("mean_float32.npz"), 5).unwrap_err().to_string();
    assert!(message.contains("mean_float32.npz") && message.contains("mom2.count"), "{message}");
}

#[test]
fn statistics_of_easyedit_are_found_where_its_settings_say() {
    let model = tiny_model("llama", 15).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let moments = SecondMoments::collect(model.as_ref(), &[LAYER], &documents(30), &config(), &Silent).unwrap().remove(&LAYER).unwrap();
    let names = EasyEditStats { model: "./cache/tiny".into(), ..EasyEditStats::of(model.spec(), LAYER, "wikipedia", 7) };
    let path = names.path(folder.path());
    write_npz(&path, &moments, 7).unwrap();
    let query = MomentQuery {
        stats_dir: Some(folder.path()),
        model_name: "./cache/tiny",
        ..MomentQuery::new("wikipedia", MomentConfig { samples: 7, ..MomentConfig::default() }, None)
    };
    let find = |query: &MomentQuery<'_>| find_moments(model.as_ref(), &[LAYER], query, &NoText, &Silent);
    let found = find(&query).unwrap().remove(&LAYER).unwrap();
    assert_eq!((found.file, found.moments.tokens()), (Some(path.clone()), moments.tokens()));
    let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * b.abs();
    assert!(found.moments.mean().iter().zip(moments.mean()).all(close));
    for other in [
        MomentQuery { config: MomentConfig { samples: 8, ..MomentConfig::default() }, ..query.clone() },
        MomentQuery { corpus: "wikitext", ..query.clone() },
        MomentQuery { model_name: "other", ..query.clone() },
        MomentQuery { config: MomentConfig { tokens: Some(9), ..query.config.clone() }, ..query.clone() },
    ] {
        assert!(find(&other).unwrap_err().to_string().contains("no corpus"));
    }
    struct Chosen;
    impl Corpora for Chosen {
        fn documents(&self, _: &str) -> Result<Vec<String>> {
            Ok(documents(1))
        }
        fn stands_in(&self) -> bool {
            true
        }
    }
    let chosen = find_moments(model.as_ref(), &[LAYER], &query, &Chosen, &Silent).unwrap().remove(&LAYER).unwrap();
    assert_eq!(chosen.file, None, "a text that was chosen is not passed over");

    let needs = MomentNeeds {
        corpus: "wikipedia",
        samples: 7,
        tokens: None,
        stats_dir: folder.path().to_str().unwrap(),
        model_name: "./cache/tiny",
    };
    let context = easyedit_core::Session::new().with_corpora(NoText);
    assert!(needed_moments(model.as_ref(), &[LAYER], &needs, &context).unwrap().contains_key(&LAYER));
    std::fs::write(&path, "damaged").unwrap();
    assert!(find(&query).unwrap_err().to_string().contains("no corpus"), "a damaged file is passed over");
}

#[test]
fn imported_statistics_are_found_by_name() {
    let model = tiny_model("llama", 16).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let moments = SecondMoments::collect(model.as_ref(), &[LAYER], &documents(30), &config(), &Silent).unwrap().remove(&LAYER).unwrap();
    let path = folder.path().join("any name.npz");
    write_npz(&path, &moments, 50).unwrap();
    let (samples, imported) = import_npz(model.as_ref(), LAYER, "wikipedia", None, &path, folder.path()).unwrap();
    let query = MomentQuery::new("wikipedia", MomentConfig { samples, ..MomentConfig::default() }, Some(folder.path()));
    let find = |model: &dyn LanguageModel, layer| find_moments(model, &[layer], &query, &NoText, &Silent);
    assert_eq!((samples, &find(model.as_ref(), LAYER).unwrap()[&LAYER]), (50, &imported));
    assert!(find(model.as_ref(), 0).is_err() && find(tiny_model("llama", 17).unwrap().as_ref(), LAYER).is_err());
    let narrow = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/mom2_float32.npz");
    let error = import_npz(model.as_ref(), LAYER, "wikipedia", None, &narrow, folder.path()).unwrap_err().to_string();
    assert!(error.contains("width 5") && error.contains("64"), "{error}");
}
