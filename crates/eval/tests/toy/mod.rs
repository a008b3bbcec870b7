//! A language model whose predictions are known: every word has one successor, and its MLP is one matrix that starts at zero.
//!
//! A word's embedding is the unit vector of its successor (nothing for a word without one), the layer adds `W k` with `k` its input,
//! and the head is the identity (for numbers whose square does not overflow). So the logits after a word are its successor's, until `W` says otherwise, and an edit of the words
//! with successor `n` changes all of them alike.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::{Device, Tensor, TensorData};
use easyedit_core::tokens::TargetTokens;
use easyedit_core::{
    Error, Generation, GenerationConfig, LanguageModel, LinearRole, ModelMap, ModelSpec, Module, ModuleNames, ParamName, Parameter,
    ParameterRole, Pass, Predictor, Probe, Progress, Result, Site, Stack, TargetScore, TokenSlice, Tokenizer, WeightLayout, device,
    white_box,
};

/// Word and successor; `.` ends a text.
pub const SUCCESSORS: &[(&str, &str)] = &[
    (".", ""),
    ("capital", "of"),
    ("town", "of"),
    ("mayor", "of"),
    ("of", "France"),
    ("France", "Paris"),
    ("Gaul", "Paris"),
    ("Norway", "Oslo"),
    ("Germany", "Berlin"),
    ("Paris", "."),
    ("Oslo", "."),
    ("Berlin", "."),
    ("New", "York"),
    ("York", "."),
    ("Rome", "."),
];

/// The one parameter.
pub const WEIGHT: &str = "layers.0.mlp.out.weight";
/// Longest sequence.
pub const POSITIONS: usize = 24;

#[derive(Clone)]
pub struct Toy {
    spec: ModelSpec,
    tokenizer: Tokenizer,
    embedding: Tensor<2>,
    weight: Tensor<2>,
    /// Tokens that have been run, by this model and its clones.
    pub tokens_run: Arc<AtomicUsize>,
}

pub fn id(word: &str) -> u32 {
    SUCCESSORS.iter().position(|(known, _)| *known == word).unwrap() as u32
}

impl Toy {
    pub fn new() -> Self {
        let device = device::select("cpu").unwrap();
        let n = SUCCESSORS.len();
        let mut embedding = vec![0f32; n * n];
        for (i, (_, next)) in SUCCESSORS.iter().enumerate() {
            if !next.is_empty() {
                embedding[i * n + id(next) as usize] = 1.0;
            }
        }
        let vocab: serde_json::Map<String, serde_json::Value> =
            SUCCESSORS.iter().enumerate().map(|(i, (word, _))| ((*word).to_owned(), i.into())).collect();
        let tokenizer = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
            "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "." },
        });
        let tokenizer = tokenizers::Tokenizer::from_bytes(tokenizer.to_string()).unwrap();
        let name = |module: &str| module.to_owned();
        let parameter = Parameter {
            name: WEIGHT.into(),
            stack: Stack::Decoder,
            layer: Some(0),
            role: ParameterRole::Linear(LinearRole::MlpOut),
            layout: Some(WeightLayout::OutIn),
            shape: [n, n],
        };
        Self {
            spec: ModelSpec {
                family: "toy".into(),
                name: "toy".into(),
                n_layers: 1,
                d_model: n,
                d_mlp: n,
                vocab_size: n,
                max_positions: POSITIONS,
                modules: ModuleNames {
                    layer: name("layers.{}"),
                    mlp: name("layers.{}.mlp"),
                    mlp_out: name("layers.{}.mlp.out"),
                    attention: name("layers.{}.attn"),
                    final_norm: name("norm"),
                    lm_head: name("head"),
                },
                tied_head: false,
                encoder: None,
                map: ModelMap::new([parameter]).unwrap(),
            },
            tokenizer: Tokenizer::new(tokenizer, vec![id(".")]),
            embedding: Tensor::from_data(TensorData::new(embedding, [n, n]), &device),
            weight: Tensor::zeros([n, n], &device),
            tokens_run: Arc::default(),
        }
    }
}

impl Predictor for Toy {
    fn name(&self) -> &str {
        &self.spec.name
    }

    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn max_positions(&self) -> usize {
        self.spec.max_positions
    }

    fn decoder_start(&self) -> Option<u32> {
        self.spec.encoder.as_ref().map(|encoder| encoder.decoder_start)
    }

    fn score(&self, rows: &[&TargetTokens], progress: &dyn Progress) -> Result<Vec<TargetScore>> {
        white_box::score(self, rows, progress)
    }

    fn generate(&self, prompts: &[TokenSlice<'_>], config: &GenerationConfig) -> Result<Vec<Generation>> {
        white_box::generate(self, prompts, config)
    }
}

impl LanguageModel for Toy {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn device(&self) -> Device {
        self.weight.device()
    }

    fn embed(&self, pass: &Pass) -> Result<Tensor<2>> {
        self.tokens_run.fetch_add(pass.batch().tokens(), Ordering::Relaxed);
        Ok(self.embedding.clone().select(0, pass.ids_tensor()))
    }

    fn run_layers(&self, hidden: Tensor<2>, layers: Range<usize>, _: &mut Pass, probe: &mut dyn Probe) -> Result<Tensor<2>> {
        let mut hidden = hidden;
        for layer in layers {
            let key = probe.at(Site::new(layer, Module::MlpKey), hidden.clone());
            let value = probe.at(Site::new(layer, Module::MlpOutput), key.matmul(self.weight.clone().transpose()));
            hidden = probe.at(Site::new(layer, Module::BlockOutput), hidden + value);
        }
        Ok(hidden)
    }

    fn logits(&self, hidden: Tensor<2>, positions: &[usize]) -> Result<Tensor<2>> {
        let model: &dyn LanguageModel = self;
        let rows = model.rows_of(hidden, positions);
        // Nothing for numbers of usual size; NaN for those whose square overflows, as in a norm.
        Ok(rows.clone() + rows.powi_scalar(2).mul_scalar(0.0))
    }

    fn parameter_names(&self) -> Vec<ParamName> {
        vec![WEIGHT.into()]
    }

    fn weight(&self, name: &ParamName) -> Result<Tensor<2>> {
        if name.as_str() == WEIGHT { Ok(self.weight.clone()) } else { Err(Error::tensor(name.as_str(), "there is no such parameter")) }
    }

    fn set_weight(&mut self, name: &ParamName, weight: Tensor<2>) -> Result<()> {
        if name.as_str() != WEIGHT || weight.dims() != self.weight.dims() {
            return Err(Error::tensor(name.as_str(), "there is no such parameter of this shape"));
        }
        self.weight = weight;
        Ok(())
    }

    fn boxed_clone(&self) -> Box<dyn LanguageModel> {
        Box::new(self.clone())
    }
}
