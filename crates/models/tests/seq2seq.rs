//! The contract of encoder-decoders, kept by tiny random models.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use burn::tensor::{Distribution, Tensor};
use common::{MemoryTensors, assert_close, largest_difference, values};
use easyedit_core::{Capture, GenerationConfig, LanguageModel, Module, ParamName, Pass, Probe, Site, Stack, TokenBatch, generate};
use easyedit_models::tiny::{tiny_config, tiny_model, tiny_model_from, tiny_tokenizer, write_tiny_checkpoint};
use easyedit_models::{Checkpoint, ModelConfig, load_model};
use serde_json::json;

/// Tied and without a gate; with a head of its own and a gate.
const FAMILIES: [&str; 2] = ["t5", "mt5"];

fn sources() -> Vec<Vec<u32>> {
    vec![vec![5, 6, 7], (0..11).map(|i| i * 23 % 257).collect(), (0..8).map(|i| 250 - i).collect()]
}

fn rows() -> Vec<Vec<u32>> {
    vec![(0..9).map(|i| i * 31 % 257).collect(), vec![256, 9, 8, 7], vec![256, 70]]
}

fn all_logits(model: &dyn LanguageModel, sources: &[Vec<u32>], rows: &[Vec<u32>]) -> Vec<f32> {
    let batch = TokenBatch::new(rows).unwrap();
    let positions: Vec<usize> = (0..batch.tokens()).collect();
    let hidden = model.hidden(&mut model.start(sources, batch).unwrap(), &mut ()).unwrap();
    values(&model.logits(hidden, &positions).unwrap())
}

#[test]
fn a_ragged_batch_is_each_row_alone_with_its_source() {
    for family in FAMILIES {
        let model = tiny_model(family, 1).unwrap();
        let together = all_logits(model.as_ref(), &sources(), &rows());
        let alone: Vec<f32> = sources()
            .iter()
            .zip(rows())
            .flat_map(|(source, row)| all_logits(model.as_ref(), std::slice::from_ref(source), &[row]))
            .collect();
        assert_close(&together, &alone, 1e-5, family);
        // Sources that are equal are encoded once, in whatever order.
        let repeated = [sources()[2].clone(), sources()[0].clone(), sources()[2].clone()];
        let together = all_logits(model.as_ref(), &repeated, &rows());
        let alone: Vec<f32> = repeated
            .iter()
            .zip(rows())
            .flat_map(|(source, row)| all_logits(model.as_ref(), std::slice::from_ref(source), &[row]))
            .collect();
        assert_close(&together, &alone, 1e-5, family);
    }
}

#[test]
fn the_decoder_sees_what_came_before_and_the_encoder_everything() {
    for family in FAMILIES {
        let model = tiny_model(family, 2).unwrap();
        let (source, row) = (sources().remove(1), rows().remove(0));
        let whole = all_logits(model.as_ref(), std::slice::from_ref(&source), std::slice::from_ref(&row));
        let start = all_logits(model.as_ref(), std::slice::from_ref(&source), &[row[..4].to_vec()]);
        assert_close(&whole[..start.len()], &start, 1e-5, family);
        // Each token of the source matters to the first logits, and the order of the source does.
        let vocab = model.spec().vocab_size;
        for token in 0..source.len() {
            let mut other = source.clone();
            other[token] = (other[token] + 1) % 257;
            let changed = all_logits(model.as_ref(), &[other], std::slice::from_ref(&row));
            assert!(largest_difference(&whole[..vocab], &changed[..vocab]) > 1e-4, "{family}: token {token}");
        }
        let mut swapped = source.clone();
        swapped.swap(0, 8);
        let changed = all_logits(model.as_ref(), &[swapped], std::slice::from_ref(&row));
        assert!(largest_difference(&whole[..vocab], &changed[..vocab]) > 1e-4, "{family}");
    }
}

#[test]
fn a_cached_continuation_is_the_full_pass_and_keeps_its_source() {
    for family in FAMILIES {
        let model = tiny_model(family, 4).unwrap();
        let device = model.device();
        let cut = |row: &Vec<u32>| row.split_at(row.len() - 1).0.to_vec();
        let starts: Vec<Vec<u32>> = rows().iter().map(cut).collect();
        let mut first = model.start(&sources(), TokenBatch::new(&starts).unwrap()).unwrap().keeping();
        model.hidden(&mut first, &mut ()).unwrap();
        let cache = first.into_cache().unwrap();
        let whole = all_logits(model.as_ref(), &sources(), &rows());
        let vocab = model.spec().vocab_size;
        let batch = TokenBatch::new(&rows()).unwrap();
        // In another order, and without the row that reads the longest source.
        for order in [vec![0, 1, 2], vec![2, 0]] {
            let ends: Vec<Vec<u32>> = order.iter().map(|row| rows()[*row].split_off(starts[*row].len())).collect();
            let cache = cache.select_rows(&order, &device).unwrap();
            let mut rest = Pass::after(TokenBatch::new(&ends).unwrap(), cache, &device).unwrap();
            let hidden = model.hidden(&mut rest, &mut ()).unwrap();
            let positions: Vec<usize> = (0..order.len()).collect();
            let continued = values(&model.logits(hidden, &positions).unwrap());
            for (place, row) in order.iter().enumerate() {
                let last = batch.range(*row).end - 1;
                let want = &whole[last * vocab..(last + 1) * vocab];
                assert_close(&continued[place * vocab..(place + 1) * vocab], want, 1e-5, family);
            }
        }
    }
}

#[test]
fn generation_with_the_cache_is_generation_without() {
    for family in FAMILIES {
        let model = tiny_model(family, 5).unwrap();
        let config = GenerationConfig { ignore_eos: true, ..GenerationConfig::greedy(10) };
        let cached = generate(model.as_ref(), &sources(), &config).unwrap();
        for (source, generation) in sources().iter().zip(cached) {
            let mut ids = vec![256];
            for _ in 0..10 {
                let logits = all_logits(model.as_ref(), std::slice::from_ref(source), std::slice::from_ref(&ids));
                let last = &logits[logits.len() - model.spec().vocab_size..];
                let best = (0..last.len()).max_by(|a, b| last[*a].total_cmp(&last[*b])).unwrap();
                ids.push(best as u32);
            }
            assert_eq!(generation.ids, ids[1..], "{family}");
        }
    }
}

/// Remembers the sites it came by, and adds to one.
#[derive(Default)]
struct Recorder {
    sites: Vec<(Site, [usize; 2])>,
    shift: Option<(Site, f32)>,
}

impl Probe for Recorder {
    fn at(&mut self, site: Site, activations: Tensor<2>) -> Tensor<2> {
        self.sites.push((site, activations.dims()));
        match self.shift {
            Some((at, amount)) if at == site => activations + amount,
            _ => activations,
        }
    }
}

const DECODER_MODULES: [Module; 6] =
    [Module::BlockInput, Module::AttentionOutput, Module::CrossAttentionOutput, Module::MlpKey, Module::MlpOutput, Module::BlockOutput];

#[test]
fn probes_come_by_every_site_of_both_sides() {
    for family in FAMILIES {
        let model = tiny_model(family, 6).unwrap();
        let (d, d_mlp) = (model.spec().d_model, model.spec().d_mlp);
        let batch = TokenBatch::new(&sources()).unwrap();
        let want = |stack: Stack, tokens: usize, layers: usize, modules: &[Module]| {
            let sites = (0..layers).flat_map(|layer| modules.iter().map(move |module| Site::in_stack(stack, layer, *module)));
            let shape = |site: Site| (site, [tokens, if site.module == Module::MlpKey { d_mlp } else { d }]);
            [Site::in_stack(stack, 0, Module::Embedding)].into_iter().chain(sites).map(shape).collect::<Vec<_>>()
        };
        let encoder = model.encoder().unwrap();
        let mut probe = Recorder::default();
        let encoded = encoder.encode(&batch, &mut probe).unwrap();
        let modules: Vec<Module> = DECODER_MODULES.into_iter().filter(|module| *module != Module::CrossAttentionOutput).collect();
        assert_eq!(probe.sites, want(Stack::Encoder, batch.tokens(), model.spec().n_layers_of(Stack::Encoder), &modules));
        let rows = TokenBatch::new(&rows()).unwrap();
        let mut probe = Recorder::default();
        model.hidden(&mut Pass::new(rows.clone(), &model.device()).reading(encoded.clone()).unwrap(), &mut probe).unwrap();
        assert_eq!(probe.sites, want(Stack::Decoder, rows.tokens(), model.spec().n_layers, &DECODER_MODULES));
        // What a probe returns is what the encoder goes on with.
        for module in modules {
            let mut probe = Recorder { shift: Some((Site::in_stack(Stack::Encoder, 1, module), 0.5)), ..Recorder::default() };
            let shifted = encoder.encode(&batch, &mut probe).unwrap();
            assert!(largest_difference(&values(&encoded.hidden()), &values(&shifted.hidden())) > 1e-3, "{family} {module:?}");
        }
    }
}

#[test]
fn block_outputs_are_sums_and_layers_can_be_run_in_parts() {
    for family in FAMILIES {
        let model = tiny_model(family, 8).unwrap();
        let modules = [Module::BlockInput, Module::AttentionOutput, Module::CrossAttentionOutput, Module::MlpOutput, Module::BlockOutput];
        let mut capture = Capture::new(modules.map(|module| Site::new(2, module)).into_iter().chain([Site::new(2, Module::MlpKey)]));
        let mut pass = model.start(&sources(), TokenBatch::new(&rows()).unwrap()).unwrap();
        let whole = model.hidden(&mut pass, &mut capture).unwrap();
        let [input, attention, cross, mlp, output] = modules.map(|module| capture.take(Site::new(2, module)).unwrap());
        let key = capture.take(Site::new(2, Module::MlpKey)).unwrap();
        let weight = model.weight(&model.spec().mlp_out_weight(2)).unwrap();
        assert_close(&values(&key.matmul(weight.transpose())), &values(&mlp), 1e-5, family);
        assert_close(&values(&(input + attention + cross + mlp)), &values(&output), 1e-5, family);
        let mut hidden = model.embed(&pass).unwrap();
        for range in [0..1, 1..1, 1..3] {
            hidden = model.run_layers(hidden, range, &mut pass, &mut ()).unwrap();
        }
        assert_eq!(values(&hidden), values(&whole));
    }
}

#[test]
fn weights_can_be_replaced_and_put_back() {
    for family in FAMILIES {
        let model = tiny_model(family, 10).unwrap();
        let before = all_logits(model.as_ref(), &sources(), &rows());
        model.device().seed(10);
        for name in model.parameter_names() {
            let mut edited = model.clone();
            let weight = edited.weight(&name).unwrap();
            let changed = weight.clone() + weight.random_like(Distribution::Uniform(-0.5, 0.5));
            edited.set_weight(&name, changed).unwrap();
            let now = all_logits(edited.as_ref(), &sources(), &rows());
            assert!(largest_difference(&before, &now) > 1e-5, "{family}: {name} does not matter");
            edited.set_weight(&name, weight).unwrap();
            assert_eq!(all_logits(edited.as_ref(), &sources(), &rows()), before);
        }
        assert_eq!(all_logits(model.as_ref(), &sources(), &rows()), before, "a clone's weights are its own");
        let encoder = model.spec().encoder.as_ref().unwrap();
        assert_eq!(model.weight(&encoder.mlp_out_weight(1)).unwrap().dims(), [32, 64]);
    }
}

fn number(tensor: Tensor<1>) -> f64 {
    f64::from(tensor.into_data().try_to_vec::<f32>().unwrap()[0])
}

/// Compares the gradient of `loss` at `at` with its slope along the gradient and along some single dimensions.
fn check_gradient(what: &str, at: &Tensor<2>, loss: &dyn Fn(Tensor<2>) -> Tensor<1>) {
    let device = at.device();
    let tracked = Tensor::from_inner(at.clone()).require_grad();
    let gradients = loss(tracked.clone()).backward();
    let gradient = tracked.grad(&gradients).unwrap_or_else(|| panic!("{what} has no gradient"));
    let [rows, columns] = gradient.dims();
    let all = values(&gradient);
    let norm = all.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
    assert!(norm > 1e-2, "{what}: gradient {norm}");
    let slope = |direction: &[f32], step: f64| {
        let along = Tensor::<1>::from_floats(direction, &device).reshape([rows, columns]);
        (number(loss(at.clone() + along.clone() * step)) - number(loss(at.clone() - along * step))) / (2.0 * step)
    };
    let unit: Vec<f32> = all.iter().map(|g| (f64::from(*g) / norm) as f32).collect();
    // A small step: softmax and kinks bend the loss; and its rounding then shows in the slope.
    let tolerance = 3e-3 * norm + 3e-3;
    let found = slope(&unit, 1e-3);
    assert!((found - norm).abs() < tolerance, "{what}: slope {found}, gradient {norm}");
    let largest = (0..all.len()).max_by(|a, b| all[*a].abs().total_cmp(&all[*b].abs())).unwrap();
    for dim in [largest, all.len() / 2, all.len() - 1] {
        let mut unit = vec![0f32; all.len()];
        unit[dim] = 1.0;
        let found = slope(&unit, 1e-3);
        assert!((found - f64::from(all[dim])).abs() < tolerance, "{what} [{dim}]: slope {found}, gradient {}", all[dim]);
    }
}

/// A weighted sum of the last logits of every row.
fn weighted(model: &dyn LanguageModel, hidden: Tensor<2>, batch: &TokenBatch) -> Tensor<1> {
    // Not drawn: tests that run beside this one share the device's generator.
    let shape = [batch.rows(), model.spec().vocab_size];
    let direction: Vec<f32> = (0..shape[0] * shape[1]).map(|i| (i as f32 * 1.7).sin()).collect();
    let direction = Tensor::<1>::from_floats(direction.as_slice(), &model.device()).reshape(shape);
    (model.logits(hidden, &batch.last_indices()).unwrap() * direction).sum()
}

#[test]
fn gradients_by_hidden_states_of_both_sides_match_finite_differences() {
    /// Puts a tensor at one site.
    struct Replace(Site, Tensor<2>);
    impl Probe for Replace {
        fn at(&mut self, site: Site, activations: Tensor<2>) -> Tensor<2> {
            if site == self.0 { self.1.clone() } else { activations }
        }
    }
    for family in FAMILIES {
        let model = tiny_model(family, 13).unwrap();
        let batch = TokenBatch::new(&rows()).unwrap();
        let mut pass = model.start(&sources(), batch.clone()).unwrap();
        let start = model.run_layers(model.embed(&pass).unwrap(), 0..1, &mut pass, &mut ()).unwrap();
        check_gradient(&format!("{family} decoder"), &start, &|hidden| {
            let hidden = model.run_layers(hidden, 1..3, &mut pass.clone(), &mut ()).unwrap();
            weighted(model.as_ref(), hidden, &batch)
        });
        let site = Site::in_stack(Stack::Encoder, 1, Module::BlockInput);
        let mut capture = Capture::new([site]);
        let read = TokenBatch::new(&sources()).unwrap();
        model.encoder().unwrap().encode(&read, &mut capture).unwrap();
        check_gradient(&format!("{family} encoder"), &capture.take(site).unwrap(), &|hidden| {
            let encoded = model.encoder().unwrap().encode(&read, &mut Replace(site, hidden)).unwrap();
            let mut pass = Pass::new(batch.clone(), &model.device()).reading(encoded).unwrap();
            let hidden = model.hidden(&mut pass, &mut ()).unwrap();
            weighted(model.as_ref(), hidden, &batch)
        });
    }
}

#[test]
fn gradients_by_weights_match_finite_differences() {
    for family in FAMILIES {
        let model = tiny_model(family, 14).unwrap();
        let batch = TokenBatch::new(&rows()).unwrap();
        for name in model.parameter_names() {
            check_gradient(&format!("{family} {name}"), &model.weight(&name).unwrap(), &|weight| {
                let mut changed = model.clone();
                changed.set_weight(&name, weight).unwrap();
                let hidden = changed.hidden(&mut changed.start(&sources(), batch.clone()).unwrap(), &mut ()).unwrap();
                weighted(changed.as_ref(), hidden, &batch)
            });
        }
    }
}

#[test]
fn passes_that_do_not_fit_are_errors() {
    let model = tiny_model("t5", 12).unwrap();
    let batch = || TokenBatch::new(&[vec![256, 1], vec![256]]).unwrap();
    let message = model.hidden(&mut Pass::new(batch(), &model.device()), &mut ()).unwrap_err().to_string();
    assert!(message.contains("tiny-t5") && message.contains("encoder"), "{message}");
    for sources in [vec![], vec![vec![1]], vec![vec![1], vec![]]] {
        let message = model.start(&sources, batch()).unwrap_err().to_string();
        assert!(message.contains("each of the 2 rows needs a source"), "{message}");
    }
    assert!(model.start(&[[260], [1]], batch()).unwrap_err().to_string().contains("token id 260"));
    let other = tiny_model("llama", 12).unwrap();
    assert!(other.encoder().is_none() && other.start(&[[1], [1]], batch()).unwrap_err().to_string().contains("decoder-only"));
    let nothing: [&[u32]; 0] = [];
    let mut pass = other.start(&nothing, batch()).unwrap();
    assert!(other.hidden(&mut pass, &mut ()).is_ok());
    let encoded = model.encoder().unwrap().encode(&batch(), &mut ()).unwrap();
    let mut pass = Pass::new(batch(), &other.device()).reading(encoded).unwrap();
    assert!(other.hidden(&mut pass, &mut ()).unwrap_err().to_string().contains("decoder-only"));
}

#[test]
fn variants_of_the_configuration_are_used() {
    let device = easyedit_core::device::select("cpu").unwrap();
    let model = |changes: serde_json::Value| {
        let mut config = tiny_config("t5").unwrap();
        assert_eq!(config["d_kv"], 8, "an absent head width would mean 64");
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        tiny_model_from(config, 14, &device)
    };
    let deep = model(json!({"num_decoder_layers": 1, "d_kv": 5})).unwrap();
    assert_eq!((deep.spec().n_layers, deep.spec().encoder.as_ref().unwrap().n_layers), (1, 3));
    assert_eq!(deep.weight(&"decoder.block.0.layer.1.EncDecAttention.k.weight".into()).unwrap().dims(), [20, 32]);
    assert!(all_logits(deep.as_ref(), &sources(), &rows()).iter().all(|v| v.is_finite()));
    let plain = all_logits(model(json!({})).unwrap().as_ref(), &sources(), &rows());
    for changes in [
        json!({"feed_forward_proj": "gated-gelu"}),
        json!({"feed_forward_proj": "gelu"}),
        json!({"tie_word_embeddings": false}),
        json!({"relative_attention_num_buckets": 8}),
        json!({"relative_attention_max_distance": 20, "relative_attention_num_buckets": 8}),
        json!({"layer_norm_epsilon": 0.1}),
    ] {
        let changed = model(changes.clone()).unwrap();
        assert_ne!(all_logits(changed.as_ref(), &sources(), &rows()), plain, "{changes}");
    }
    assert_eq!(
        model(json!({"decoder_start_token_id": null, "pad_token_id": 3})).unwrap().spec().encoder.as_ref().unwrap().decoder_start,
        3
    );
    for (changes, named) in [
        (json!({"feed_forward_proj": "gated-gelu_nev"}), "gelu_new"),
        (json!({"decoder_start_token_id": 260}), "decoder_start_token_id"),
        (json!({"relative_attention_num_buckets": 6}), "relative_attention_num_buckets"),
        (json!({"relative_attention_max_distance": 16}), "relative_attention_max_distance"),
    ] {
        let message = model(changes).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(named), "{message}");
    }
}

#[test]
fn a_written_checkpoint_is_the_model() {
    for family in FAMILIES {
        let device = easyedit_core::device::select("cpu").unwrap();
        let folder = tempfile::tempdir().unwrap();
        write_tiny_checkpoint(family, 16, folder.path()).unwrap();
        let tensors = MemoryTensors::open(&folder.path().join("model.safetensors"));
        let config = ModelConfig::read(&folder.path().join("config.json")).unwrap();
        let model = load_model(&config, "again", &tensors, tiny_tokenizer().unwrap(), &device).unwrap();
        let original = tiny_model(family, 16).unwrap();
        assert_eq!(all_logits(model.as_ref(), &sources(), &rows()), all_logits(original.as_ref(), &sources(), &rows()));
        let mut names: Vec<ParamName> = model.parameter_names();
        names.sort();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(checkpoint.load(&device).unwrap().spec().encoder, original.spec().encoder);
        for name in &names {
            assert_eq!(checkpoint.stored_name(name).unwrap().as_deref(), Some(name.as_str()));
        }
        assert_eq!(names.iter().map(ParamName::as_str).collect::<Vec<_>>(), tensors.tensors.keys().collect::<Vec<_>>());
        for name in [&names[3], &"decoder.block.2.layer.2.DenseReluDense.wo.weight".into()] {
            let mut fewer = MemoryTensors { tensors: tensors.tensors.clone() };
            fewer.tensors.remove(name.as_str());
            let message = load_model(&config, "cut", &fewer, tiny_tokenizer().unwrap(), &device).map(|_| ()).unwrap_err().to_string();
            assert!(message.contains(name.as_str()), "{message}");
        }
    }
}
