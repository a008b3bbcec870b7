//! Small random networks, and a session that finds them by name.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use burn::tensor::Device;
use easyedit_core::{
    CheckedRequest, Corpora, EditRequest, Error, LanguageModel, Progress, Registry, Result, Session, Tokenizer, TrainableEncoder, Trained,
};
use easyedit_models::tiny::{tiny_model, tiny_tokenizer};
use easyedit_models::{InitialWeights, ModelConfig, load_text_encoder};
use easyedit_serac::{Networks, ScopeClassifier, ScopeRules, Serac, SeracHparams};
use serde_json::json;

pub(crate) fn encoder_with(model_type: &str, tokenizer: Tokenizer, vocabulary: usize) -> Box<dyn TrainableEncoder> {
    let sizes = match model_type {
        "bert" => json!({"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}),
        _ => json!({"dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2}),
    };
    let mut config = json!({"model_type": model_type, "vocab_size": vocabulary, "max_position_embeddings": 64, "type_vocab_size": 2});
    config.as_object_mut().unwrap().extend(sizes.as_object().unwrap().clone());
    let config = ModelConfig::new(config, "config.json").unwrap();
    let device = easyedit_core::device::select("cpu").unwrap();
    Box::new(load_text_encoder(&config, "tiny-encoder", &InitialWeights { seed: 5 }, tokenizer, &device).unwrap())
}

pub(crate) fn encoder() -> Box<dyn TrainableEncoder> {
    encoder_with("bert", tiny_tokenizer().unwrap(), 260)
}

pub(crate) fn hparams() -> SeracHparams {
    SeracHparams { archive: Some("trained".into()), cls_name: "encoder".into(), small_name: "llama".into(), ..SeracHparams::default() }
}

pub(crate) fn networks(hparams: &SeracHparams) -> Networks {
    let classifier = ScopeClassifier::new(encoder(), ScopeRules::of(hparams), 1).unwrap();
    Networks { classifier, counterfactual: tiny_model(&hparams.small_name, 8).unwrap() }
}

/// Networks by name, and the one archive.
pub(crate) struct Given {
    pub(crate) trained: Option<Trained>,
}

impl Corpora for Given {
    fn documents(&self, _: &str) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn text_encoder(&self, name: &str, _: &Device, _: &dyn Progress) -> Result<Box<dyn TrainableEncoder>> {
        match name {
            "encoder" => Ok(encoder()),
            other => Err(Error::hparams(format!("there is no encoder {other}"))),
        }
    }

    fn language_model(&self, name: &str, _: &Device, _: &dyn Progress) -> Result<Box<dyn LanguageModel>> {
        tiny_model(name, 8).map_err(Error::other)
    }

    fn trained(&self, name: &str, _: &str) -> Result<Trained> {
        self.trained.clone().ok_or_else(|| Error::hparams(format!("archive: there is no {name}")))
    }
}

pub(crate) fn session(trained: Trained) -> Session {
    Session::new().with_seed(3).with_corpora(Given { trained: Some(trained) })
}

/// What the networks of `hparams` are before any training, as the reference would have saved it.
pub(crate) fn untrained(hparams: &SeracHparams) -> Trained {
    Trained { method: "SERAC".into(), tensors: networks(hparams).state().unwrap(), facts: serde_json::Value::Null }
}

pub(crate) fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.register::<Serac>();
    registry
}

pub(crate) fn requests() -> Vec<CheckedRequest> {
    let request = |case_id, prompt: &str, target: &str| EditRequest { case_id, ..EditRequest::new(prompt, "", target) };
    let requests = [request(1, "Ada speaks", "Welsh"), request(2, "Zurich lies in", "Peru"), request(3, "Old Tom plays the", "flute")];
    CheckedRequest::all(requests).unwrap()
}
