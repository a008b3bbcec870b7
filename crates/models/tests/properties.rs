//! The contract of `LanguageModel`, kept by tiny random models of every family.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use burn::tensor::{Distribution, Tensor};
use common::{MemoryTensors, assert_close, values};
use easyedit_core::{Capture, GenerationConfig, LanguageModel, Module, ParamName, Pass, Probe, Site, TokenBatch, generate};
use easyedit_models::tiny::{tiny_config, tiny_model, tiny_model_from, tiny_tokenizer, write_tiny_checkpoint};
use easyedit_models::{ModelConfig, families, load_model};
use serde_json::json;

/// The decoder-only types of every family.
fn decoder_types() -> impl Iterator<Item = &'static str> {
    let types = families().iter().flat_map(|family| family.model_types.iter().copied());
    types.filter(|model_type| tiny_config(model_type).unwrap()["is_encoder_decoder"] != true)
}

fn rows() -> Vec<Vec<u32>> {
    vec![(0..11).map(|i| i * 23 % 257).collect(), vec![5, 6, 7], (0..8).map(|i| 250 - i).collect()]
}

fn all_logits(model: &dyn LanguageModel, rows: &[Vec<u32>]) -> Vec<f32> {
    let batch = TokenBatch::new(rows).unwrap();
    let positions: Vec<usize> = (0..batch.tokens()).collect();
    let hidden = model.hidden(&mut Pass::new(batch, &model.device()), &mut ()).unwrap();
    values(&model.logits(hidden, &positions).unwrap())
}

#[test]
fn a_ragged_batch_is_each_row_alone() {
    for family in decoder_types() {
        let model = tiny_model(family, 1).unwrap();
        let together = all_logits(model.as_ref(), &rows());
        let alone: Vec<f32> = rows().iter().flat_map(|row| all_logits(model.as_ref(), std::slice::from_ref(row))).collect();
        assert_close(&together, &alone, 1e-5, family);
    }
}

#[test]
fn later_tokens_do_not_matter() {
    for family in decoder_types() {
        let model = tiny_model(family, 2).unwrap();
        let row = rows().remove(0);
        let whole = all_logits(model.as_ref(), std::slice::from_ref(&row));
        let start = all_logits(model.as_ref(), &[row[..4].to_vec()]);
        assert_close(&whole[..start.len()], &start, 1e-5, family);
        // And earlier ones do.
        let mut other = row.clone();
        other[7] += 1;
        let changed = all_logits(model.as_ref(), &[other]);
        let vocab = model.spec().vocab_size;
        assert!(common::largest_difference(&whole[8 * vocab..9 * vocab], &changed[8 * vocab..9 * vocab]) > 1e-3);
    }
}

#[test]
fn layers_can_be_run_in_parts() {
    for family in decoder_types() {
        let model = tiny_model(family, 3).unwrap();
        let mut pass = Pass::new(TokenBatch::new(&rows()).unwrap(), &model.device());
        let whole = model.hidden(&mut pass, &mut ()).unwrap();
        let mut hidden = model.embed(&pass).unwrap();
        for range in [0..1, 1..1, 1..3] {
            hidden = model.run_layers(hidden, range, &mut pass, &mut ()).unwrap();
        }
        assert_eq!(values(&hidden), values(&whole));
        let some = model.logits(whole.clone(), &[13, 2]).unwrap();
        let all = values(&model.logits(whole, &(0..22).collect::<Vec<_>>()).unwrap());
        let vocab = model.spec().vocab_size;
        assert_close(&values(&some)[..vocab], &all[13 * vocab..14 * vocab], 1e-6, family);
        assert_close(&values(&some)[vocab..], &all[2 * vocab..3 * vocab], 1e-6, family);
    }
}

#[test]
fn a_cached_continuation_is_the_full_pass() {
    for family in decoder_types() {
        let model = tiny_model(family, 4).unwrap();
        let device = model.device();
        let starts: Vec<Vec<u32>> = rows().iter().map(|row| row[..row.len() - 2].to_vec()).collect();
        let ends: Vec<Vec<u32>> = rows().iter().map(|row| row[row.len() - 2..].to_vec()).collect();
        let mut first = Pass::new(TokenBatch::new(&starts).unwrap(), &device).keeping();
        model.hidden(&mut first, &mut ()).unwrap();
        let mut rest = Pass::after(TokenBatch::new(&ends).unwrap(), first.into_cache().unwrap(), &device).unwrap();
        let hidden = model.hidden(&mut rest, &mut ()).unwrap();
        let continued = values(&model.logits(hidden, &[1, 3, 5]).unwrap());
        let whole: Vec<f32> = rows()
            .iter()
            .flat_map(|row| {
                let logits = all_logits(model.as_ref(), std::slice::from_ref(row));
                logits[logits.len() - model.spec().vocab_size..].to_vec()
            })
            .collect();
        assert_close(&continued, &whole, 1e-5, family);
    }
}

#[test]
fn generation_with_the_cache_is_generation_without() {
    for family in decoder_types() {
        let model = tiny_model(family, 5).unwrap();
        let config = GenerationConfig { ignore_eos: true, ..GenerationConfig::greedy(12) };
        let cached = generate(model.as_ref(), &rows(), &config).unwrap();
        for (row, generation) in rows().iter().zip(cached) {
            let mut ids = row.clone();
            for _ in 0..12 {
                let logits = all_logits(model.as_ref(), std::slice::from_ref(&ids));
                let last = &logits[logits.len() - model.spec().vocab_size..];
                let best = (0..last.len()).max_by(|a, b| last[*a].total_cmp(&last[*b])).unwrap();
                ids.push(best as u32);
            }
            assert_eq!(generation.ids, ids[row.len()..], "{family}");
        }
    }
}

/// Remembers the order of sites, adds to one, and stops after a layer.
#[derive(Default)]
struct Recorder {
    sites: Vec<(Site, [usize; 2])>,
    shift: Option<(Site, f32)>,
    stop_after: Option<usize>,
}

impl Probe for Recorder {
    fn at(&mut self, site: Site, activations: Tensor<2>) -> Tensor<2> {
        self.sites.push((site, activations.dims()));
        match self.shift {
            Some((at, amount)) if at == site => activations + amount,
            _ => activations,
        }
    }

    fn is_done(&self) -> bool {
        self.stop_after.is_some_and(|layer| self.sites.iter().any(|(site, _)| site.layer == layer && site.module == Module::BlockOutput))
    }
}

#[test]
fn probes_are_called_in_order_and_may_stop_the_pass() {
    for family in decoder_types() {
        let model = tiny_model(family, 6).unwrap();
        let (d, d_mlp) = (model.spec().d_model, model.spec().d_mlp);
        let batch = TokenBatch::new(&rows()).unwrap();
        let mut pass = Pass::new(batch.clone(), &model.device());
        let mut probe = Recorder { stop_after: Some(1), ..Recorder::default() };
        let stopped = model.hidden(&mut pass, &mut probe).unwrap();
        let mut want = vec![(Site::new(0, Module::Embedding), [22, d])];
        for layer in 0..2 {
            for module in [Module::BlockInput, Module::AttentionOutput, Module::MlpKey, Module::MlpOutput, Module::BlockOutput] {
                want.push((Site::new(layer, module), [22, if module == Module::MlpKey { d_mlp } else { d }]));
            }
        }
        assert_eq!(probe.sites, want);
        let hidden = model.embed(&pass).unwrap();
        let two_layers = model.run_layers(hidden, 0..2, &mut pass, &mut ()).unwrap();
        assert_eq!(values(&stopped), values(&two_layers), "the hidden state is that of the last layer run");
    }
}

#[test]
fn what_a_probe_returns_is_what_the_model_goes_on_with() {
    for family in decoder_types() {
        let model = tiny_model(family, 7).unwrap();
        let run = |site: Site| {
            let mut pass = Pass::new(TokenBatch::new(&rows()).unwrap(), &model.device());
            values(&model.hidden(&mut pass, &mut Recorder { shift: Some((site, 0.5)), ..Recorder::default() }).unwrap())
        };
        let plain = run(Site::new(9, Module::BlockInput));
        for module in [Module::BlockInput, Module::AttentionOutput, Module::MlpKey, Module::MlpOutput, Module::BlockOutput] {
            assert!(common::largest_difference(&plain, &run(Site::new(1, module))) > 1e-3, "{family} {module:?}");
        }
        // The output of the block is its input and what attention and MLP add.
        assert_close(&run(Site::new(1, Module::MlpOutput)), &run(Site::new(1, Module::BlockOutput)), 1e-5, family);
        assert_close(&run(Site::new(0, Module::Embedding)), &run(Site::new(0, Module::BlockInput)), 0.0, family);
    }
}

#[test]
fn block_outputs_are_sums() {
    for family in decoder_types() {
        let model = tiny_model(family, 8).unwrap();
        let modules = [Module::BlockInput, Module::AttentionOutput, Module::MlpOutput, Module::BlockOutput];
        let mut capture = Capture::new(modules.map(|module| Site::new(1, module)));
        model.hidden(&mut Pass::new(TokenBatch::new(&rows()).unwrap(), &model.device()), &mut capture).unwrap();
        let [input, attention, mlp, output] = modules.map(|module| capture.take(Site::new(1, module)).unwrap());
        assert_close(&values(&(input + attention + mlp)), &values(&output), 1e-5, family);
    }
}

#[test]
fn keys_times_the_out_projection_are_the_mlp_output() {
    for family in decoder_types() {
        let model = tiny_model(family, 9).unwrap();
        let mut capture = Capture::new([Module::MlpKey, Module::MlpOutput].map(|module| Site::new(2, module)));
        model.hidden(&mut Pass::new(TokenBatch::new(&rows()).unwrap(), &model.device()), &mut capture).unwrap();
        let weight = model.weight(&model.spec().mlp_out_weight(2)).unwrap();
        let weight = match model.spec().parameter(&model.spec().mlp_out_weight(2)).unwrap().matrix_layout().unwrap() {
            easyedit_core::WeightLayout::OutIn => weight.transpose(),
            easyedit_core::WeightLayout::InOut => weight,
        };
        let bias = model.weight(&format!("{}.bias", model.spec().modules.mlp_out.replace("{}", "2")).as_str().into()).ok();
        let mut product = capture.take(Site::new(2, Module::MlpKey)).unwrap().matmul(weight);
        if let Some(bias) = bias {
            product = product + bias;
        }
        assert_close(&values(&product), &values(&capture.take(Site::new(2, Module::MlpOutput)).unwrap()), 1e-5, family);
    }
}

#[test]
fn weights_can_be_replaced_and_put_back() {
    for family in decoder_types() {
        let model = tiny_model(family, 10).unwrap();
        let before = all_logits(model.as_ref(), &rows());
        model.device().seed(10);
        for name in model.parameter_names() {
            let mut edited = model.clone();
            let weight = edited.weight(&name).unwrap();
            let changed = weight.clone() + weight.random_like(Distribution::Uniform(-0.5, 0.5));
            edited.set_weight(&name, changed.clone()).unwrap();
            assert_close(&values(&edited.weight(&name).unwrap()), &values(&changed), 0.0, name.as_str());
            let change = common::largest_difference(&before, &all_logits(edited.as_ref(), &rows()));
            // Without rotations between, a bias of the keys adds the same to all scores of a query, which the softmax takes away.
            let cancels = family == "opt" && name.as_str().ends_with("k_proj.bias");
            assert!(change > 1e-5 || cancels, "{family}: {name} does not matter");
            assert_eq!(all_logits(model.as_ref(), &rows()), before, "a clone's weights are its own");
            edited.set_weight(&name, weight).unwrap();
            assert_eq!(all_logits(edited.as_ref(), &rows()), before);
        }
    }
}

#[test]
fn wrong_parameters_are_errors_with_a_hint() {
    for family in decoder_types() {
        let mut model = tiny_model(family, 11).unwrap();
        let name = model.spec().mlp_out_weight(0);
        let [rows, cols] = model.weight(&name).unwrap().dims();
        let misshapen = Tensor::zeros([cols, rows], &model.device());
        assert!(model.set_weight(&name, misshapen).unwrap_err().to_string().contains(name.as_str()));
        let typo = ParamName::new(name.as_str().replace("weight", "weigth"));
        let message = model.weight(&typo).unwrap_err().to_string();
        assert!(message.contains(&format!("did you mean {name}")), "{message}");
        assert!(model.weight(&"".into()).is_err());
    }
}

#[test]
fn bad_passes_are_errors() {
    for family in decoder_types() {
        let model = tiny_model(family, 12).unwrap();
        let device = model.device();
        let pass = |ids: Vec<u32>| Pass::new(TokenBatch::new(&[ids]).unwrap(), &device);
        assert!(model.embed(&pass(vec![260])).is_err());
        assert!(model.embed(&pass(vec![u32::MAX])).is_err());
        let hidden = |tokens: usize, width: usize| Tensor::<2>::zeros([tokens, width], &device);
        for (tokens, width, layers) in [(2, 32, 0..3), (1, 31, 0..3), (1, 32, 0..4)] {
            assert!(model.run_layers(hidden(tokens, width), layers, &mut pass(vec![1]), &mut ()).is_err());
        }
        #[allow(clippy::reversed_empty_ranges)]
        let backwards = 2..1;
        assert!(model.run_layers(hidden(1, 32), backwards, &mut pass(vec![1]), &mut ()).is_err());
        assert!(model.logits(hidden(1, 32), &[1]).is_err());
        assert!(model.logits(hidden(1, 32), &[]).is_err());
        assert!(model.logits(hidden(1, 30), &[0]).is_err());
    }
    let gpt2 = tiny_model("gpt2", 12).unwrap();
    let message = gpt2.embed(&Pass::new(TokenBatch::new(&[vec![1; 513]]).unwrap(), &gpt2.device())).unwrap_err().to_string();
    assert!(message.contains("512 positions"), "{message}");
}

#[test]
fn gradients_match_finite_differences() {
    for family in decoder_types() {
        let device = easyedit_core::device::select("cpu").unwrap();
        let mut config = tiny_config(family).unwrap();
        if config["activation_function"] == "relu" {
            // Differences across the kinks of the function are no derivatives.
            config["activation_function"] = json!("gelu_new");
        }
        let model = tiny_model_from(config, 13, &device).unwrap();
        let d = model.spec().d_model;
        // The prefix is cached without gradients, as value optimisation does; the rest is ragged.
        let prefix: Vec<Vec<u32>> = rows().iter().map(|row| row[..row.len() - 2].to_vec()).collect();
        let suffix = vec![vec![40, 41, 42], vec![50], vec![60, 61]];
        let mut first = Pass::new(TokenBatch::new(&prefix).unwrap(), &device).keeping();
        model.hidden(&mut first, &mut ()).unwrap();
        let cache = first.into_cache().unwrap();
        let pass = Pass::after(TokenBatch::new(&suffix).unwrap(), cache, &device).unwrap();
        let start = model.run_layers(model.embed(&pass).unwrap(), 0..1, &mut pass.clone(), &mut ()).unwrap();
        device.seed(13);
        let direction = Tensor::<2>::random([4, 260], Distribution::Uniform(-1.0, 1.0), &device);
        let loss = |delta: Tensor<1>| {
            // Added to the first token of every row.
            let rows: Vec<Tensor<2>> = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0].iter().map(|on| delta.clone().unsqueeze::<2>() * *on).collect();
            let hidden = start.clone() + Tensor::cat(rows, 0);
            let hidden = model.run_layers(hidden, 1..3, &mut pass.clone(), &mut ()).unwrap();
            (model.logits(hidden, &[2, 3, 4, 5]).unwrap() * direction.clone()).sum()
        };
        let at = Tensor::<1>::zeros([d], &device.clone().autodiff()).require_grad();
        let gradients = loss(at.clone()).backward();
        let gradient = at.grad(&gradients).unwrap().into_data().try_to_vec::<f32>().unwrap();
        // Along the gradient itself, where the slope is its norm; and along single dimensions.
        let number = |t: Tensor<1>| f64::from(t.into_data().try_to_vec::<f32>().unwrap()[0]);
        let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        assert!(norm > 1.0, "{family}: {norm}");
        let slope = |direction: Vec<f32>, step: f64| {
            let along = Tensor::<1>::from_floats(direction.as_slice(), &device);
            (number(loss(along.clone() * step)) - number(loss(along * -step))) / (2.0 * step)
        };
        let unit: Vec<f32> = gradient.iter().map(|g| (f64::from(*g) / norm) as f32).collect();
        let found = slope(unit, 1e-2);
        assert!((found - norm).abs() < 1e-3 * norm, "{family}: slope {found}, gradient {norm}");
        for dim in [0, d / 2, d - 1] {
            let mut unit = vec![0f32; d];
            unit[dim] = 1.0;
            let found = slope(unit, 1e-2);
            assert!((found - f64::from(gradient[dim])).abs() < 1e-3 * norm, "{family}: slope {found}, gradient {}", gradient[dim]);
        }
    }
}

#[test]
fn variants_of_the_configuration_are_used() {
    let device = easyedit_core::device::select("cpu").unwrap();
    let base = tiny_config("llama").unwrap();
    let logits = |changes: serde_json::Value| {
        let mut config = base.clone();
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let model = tiny_model_from(config, 14, &device).unwrap();
        (all_logits(model.as_ref(), &rows()), model)
    };
    let (plain, _) = logits(json!({}));
    let (biased, model) = logits(json!({"attention_bias": true, "mlp_bias": true}));
    assert_ne!(plain, biased);
    for module in ["self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"] {
        assert_eq!(model.weight(&format!("model.layers.0.{module}.bias").as_str().into()).unwrap().dims()[0], 1);
    }
    let (tied, model) = logits(json!({"tie_word_embeddings": true}));
    assert_ne!(plain, tied);
    assert_eq!(model.spec().modules.lm_head, "model.embed_tokens");
    assert!(!model.parameter_names().contains(&"lm_head.weight".into()));
    let (_, model) = logits(json!({"head_dim": 6, "num_key_value_heads": 1}));
    assert_eq!(model.weight(&"model.layers.0.self_attn.q_proj.weight".into()).unwrap().dims(), [24, 32]);
    assert_eq!(model.weight(&"model.layers.0.self_attn.k_proj.weight".into()).unwrap().dims(), [6, 32]);
    assert_ne!(plain, logits(json!({"rope_scaling": {"type": "linear", "factor": 2.0}})).0);
    assert_ne!(plain, logits(json!({"rope_theta": 100.0})).0);
    assert_ne!(plain, logits(json!({"hidden_act": "gelu"})).0);
}

#[test]
fn windows_of_qwen2_begin_at_their_layer() {
    let device = easyedit_core::device::select("cpu").unwrap();
    let run = |first: usize| {
        let mut config = tiny_config("qwen2").unwrap();
        config
            .as_object_mut()
            .unwrap()
            .extend(json!({"use_sliding_window": true, "sliding_window": 2, "max_window_layers": first}).as_object().unwrap().clone());
        all_logits(tiny_model_from(config, 15, &device).unwrap().as_ref(), &rows())
    };
    assert_eq!(run(3), all_logits(tiny_model("qwen2", 15).unwrap().as_ref(), &rows()));
    assert_ne!(run(2), run(3));
    assert_ne!(run(0), run(2));
}

#[test]
fn bad_configurations_are_errors() {
    let device = easyedit_core::device::select("cpu").unwrap();
    let fails = |family: &str, key: &str, value: serde_json::Value| {
        let mut config = tiny_config(family).unwrap();
        config.as_object_mut().unwrap().insert(key.into(), value);
        let message = tiny_model_from(config, 0, &device).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(key), "{message}");
    };
    for value in [json!(0), json!(-1), json!(5_000_000), json!("4"), json!(1.5)] {
        for key in ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "num_key_value_heads"] {
            fails("llama", key, value.clone());
        }
        fails("gpt2", "n_head", value.clone());
        fails("gpt2", "n_layer", value);
    }
    fails("llama", "hidden_size", json!(33));
    fails("llama", "num_key_value_heads", json!(3));
    fails("llama", "head_dim", json!(7));
    fails("llama", "head_dim", json!(900_000));
    fails("llama", "rope_scaling", json!({"rope_type": "yarn"}));
    fails("llama", "rms_norm_eps", json!(-1.0));
    fails("llama", "hidden_act", json!("sillu"));
    fails("gpt2", "n_embd", json!(34));
    fails("gpt2", "vocab_size", json!(200));
}

#[test]
fn a_tokenizer_that_does_not_fit_is_refused() {
    let device = easyedit_core::device::select("cpu").unwrap();
    let mut config = tiny_config("llama").unwrap();
    config["vocab_size"] = json!(256);
    let message = tiny_model_from(config, 0, &device).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("tokenizer does not fit the vocabulary") && message.contains("ids up to 256"), "{message}");
}

#[test]
fn unknown_families_get_a_suggestion() {
    let device = easyedit_core::device::select("cpu").unwrap();
    let message = tiny_model_from(json!({"model_type": "lama"}), 0, &device).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("did you mean llama") && message.contains("gpt2"), "{message}");
}

#[test]
fn a_written_checkpoint_is_the_model() {
    let device = easyedit_core::device::select("cpu").unwrap();
    for family in decoder_types() {
        let folder = tempfile::tempdir().unwrap();
        write_tiny_checkpoint(family, 16, folder.path()).unwrap();
        let tensors = MemoryTensors::open(&folder.path().join("model.safetensors"));
        let config = ModelConfig::read(&folder.path().join("config.json")).unwrap();
        let text = std::fs::read_to_string(folder.path().join("tokenizer.json")).unwrap();
        let tokenizer = easyedit_core::Tokenizer::new(text.parse().unwrap(), vec![256]);
        assert_eq!(tokenizer.encode("é a").unwrap(), tiny_tokenizer().unwrap().encode("é a").unwrap());
        let model = load_model(&config, "again", &tensors, tokenizer, &device).unwrap();
        let original = tiny_model(family, 16).unwrap();
        assert_eq!(all_logits(model.as_ref(), &rows()), all_logits(original.as_ref(), &rows()));
        let mut names: Vec<String> = model.parameter_names().iter().map(|name| name.as_str().to_owned()).collect();
        names.sort();
        assert_eq!(names, tensors.tensors.keys().cloned().collect::<Vec<_>>(), "every stored tensor is a parameter");
        // A tensor left out is an error that names it.
        let mut fewer = tensors;
        fewer.tensors.remove(&names[3]);
        let message = load_model(&config, "cut", &fewer, tiny_tokenizer().unwrap(), &device).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(&names[3]), "{message}");
    }
}
