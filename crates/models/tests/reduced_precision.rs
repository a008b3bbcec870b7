//! A model whose checkpoint holds 16-bit numbers keeps them, and is the model of the widened numbers, bit for bit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;

use burn::tensor::{DType, Tensor};
use common::values;
use easyedit_core::{GenerationConfig, LanguageModel, Module, Probe, Site, TokenBatch, TokenRow, WeightType, generate};
use easyedit_models::tiny::{convert_checkpoint, write_tiny_checkpoint};
use easyedit_models::{Checkpoint, families};

fn open(folder: &Path) -> Box<dyn LanguageModel> {
    Checkpoint::open(folder).unwrap().load(&easyedit_core::device::select("cpu").unwrap()).unwrap()
}

/// Follows gradients of what enters layer 0.
struct Tracked(Option<Tensor<2>>);

impl Probe for Tracked {
    fn at(&mut self, site: Site, activations: Tensor<2>) -> Tensor<2> {
        if site != Site::new(0, Module::Embedding) {
            return activations;
        }
        let tracked = Tensor::from_inner(activations).require_grad();
        self.0 = Some(tracked.clone());
        tracked
    }
}

/// All logits, the gradient of their weighted sum by the embeddings, and greedy texts.
fn behaviour(model: &dyn LanguageModel) -> (Vec<f32>, Vec<f32>, Vec<Vec<u32>>) {
    let rows: Vec<Vec<u32>> = vec![(0..9).map(|i| i * 31 % 257).collect(), vec![256, 9, 8, 7]];
    let sources: Vec<Vec<u32>> = if model.spec().encoder.is_some() { vec![vec![5, 6, 7], vec![8, 9]] } else { vec![vec![]; 2] };
    let batch = TokenBatch::new(&rows).unwrap();
    let positions: Vec<usize> = (0..batch.tokens()).collect();
    let mut tracked = Tracked(None);
    let hidden = model.hidden(&mut model.start(&sources, batch).unwrap(), &mut tracked).unwrap();
    let logits = model.logits(hidden, &positions).unwrap();
    let [count, vocab] = logits.dims();
    let weights: Vec<f32> = (0..count * vocab).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
    let weights = Tensor::<1>::from_floats(weights.as_slice(), &model.device()).reshape([count, vocab]);
    let gradients = (logits.clone() * Tensor::from_inner(weights)).sum().backward();
    let by_input = tracked.0.unwrap().grad(&gradients).unwrap();
    let prompts: Vec<TokenRow> = rows.into_iter().map(TokenRow::from).collect();
    let config = GenerationConfig { ignore_eos: true, ..GenerationConfig::greedy(5) };
    let texts = generate(model, &prompts, &config).unwrap().into_iter().map(|text| text.ids).collect();
    (values(&logits.inner()), values(&by_input), texts)
}

#[test]
fn it_is_the_model_of_the_widened_numbers() {
    let folder = tempfile::tempdir().unwrap();
    for family in families().iter().filter_map(|family| family.model_types.first()) {
        let at = |name: &str| folder.path().join(family).join(name);
        write_tiny_checkpoint(family, 5, &at("drawn")).unwrap();
        for kind in [WeightType::F16, WeightType::Bf16] {
            let (narrow, wide) = (at(kind.name()), at(&format!("{}-wide", kind.name())));
            convert_checkpoint(&at("drawn"), &narrow, kind).unwrap();
            convert_checkpoint(&narrow, &wide, WeightType::F32).unwrap();
            let (mut narrow, wide) = (open(&narrow), open(&wide));
            assert!(narrow.spec().map.iter().all(|parameter| parameter.dtype == kind), "{family}");
            assert!(wide.spec().map.iter().all(|parameter| parameter.dtype == WeightType::F32), "{family}");
            assert!(behaviour(&*narrow) == behaviour(&*wide), "{family}, {kind:?}");
            for name in wide.parameter_names() {
                assert_eq!(narrow.weight(&name).unwrap().dtype(), DType::F32, "{family}: {name}");
                assert_eq!(narrow.fingerprint(&name).unwrap(), wide.fingerprint(&name).unwrap(), "{family}: {name}");
            }
            // A small change is not rounded away in memory.
            let name = narrow.spec().mlp_out_weight(1);
            let changed = narrow.weight(&name).unwrap() * (1.0 + 1e-5);
            narrow.set_weight(&name, changed.clone()).unwrap();
            assert_eq!(values(&narrow.weight(&name).unwrap()), values(&changed), "{family}");
        }
    }
}
