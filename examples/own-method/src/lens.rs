//! A crude method in closed form: at the last layer, the key at the prompt's end is made to answer with the direction in which the
//! head reads the target. It writes the first token of a target, and knows nothing of paraphrases.

use std::collections::BTreeMap;

use easyedit::tokens::encode_with_target;
use easyedit::{
    Capture, CheckedRequest, Edit, EditMethod, Hparams, LanguageModel, Matrix, Method, ModelSpec, Module, ParamName, Pass, Result, Session,
    Site, TensorDelta, TokenBatch, WeightDelta, WeightLayout, tensor_values,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LensHparams {
    pub alg_name: String,
    /// Length of what is added to the layer's output, in lengths of the hidden state there; above 0.
    pub strength: f32,
}

impl Hparams for LensHparams {
    const METHOD: &'static str = "LENS";
    const KEYS: &'static [&'static str] = &["alg_name", "strength"];

    fn check(&self) -> std::result::Result<(), String> {
        if self.strength > 0.0 { Ok(()) } else { Err(format!("strength is {}; it has to be above 0", self.strength)) }
    }
}

pub struct Lens {
    hparams: LensHparams,
}

impl Method for Lens {
    type Hparams = LensHparams;
    const SUMMARY: &'static str = "writes the head's own direction into the last layer";

    fn new(hparams: LensHparams) -> Self {
        Self { hparams }
    }

    fn hparams_for(_: &ModelSpec) -> LensHparams {
        LensHparams { alg_name: "LENS".into(), strength: 2.0 }
    }
}

impl EditMethod for Lens {
    fn name(&self) -> &'static str {
        LensHparams::METHOD
    }

    fn hparams(&self) -> Value {
        serde_json::to_value(&self.hparams).unwrap_or_default()
    }

    fn prepare(&mut self, model: &dyn LanguageModel, _: &Session) -> Result<()> {
        model.spec().check_decoder_only(self.name())
    }

    fn edit(&mut self, model: &dyn LanguageModel, requests: &[CheckedRequest], session: &Session) -> Result<Edit> {
        self.prepare(model, session)?;
        let spec = model.spec();
        let layer = spec.n_layers - 1;
        let name = spec.mlp_out_weight(layer);
        let base = model.fingerprint(&name)?;
        let mut edits: Option<WeightDelta> = None;
        for request in requests {
            let delta = self.change(model, request, layer)?;
            edits = Some(match edits {
                Some(before) => before.then(&delta, &name)?,
                None => delta,
            });
        }
        let deltas = edits.map(|delta| BTreeMap::from([(name, TensorDelta::new(delta, base))])).unwrap_or_default();
        Ok(Edit::of(self, model, requests, session.seed(), json!({}), deltas))
    }
}

impl Lens {
    /// ΔW = u kᵀ / (kᵀk): the key k is answered with u more than before.
    fn change(&self, model: &dyn LanguageModel, request: &CheckedRequest, layer: usize) -> Result<WeightDelta> {
        let tokens = encode_with_target(model, request.prompt(), request.target_new())?;
        let (key, stream) = (Site::new(layer, Module::MlpKey), Site::new(layer, Module::BlockOutput));
        let mut seen = Capture::new([key, stream]);
        let mut pass = Pass::new(TokenBatch::new(&[tokens.prompt()])?, &model.device());
        model.hidden(&mut pass, &mut seen)?;
        let last = |site| -> Result<Vec<f32>> {
            let all = seen.get(site).ok_or_else(|| request.error("the model has no such site"))?;
            tensor_values(&model.rows_of(all.clone(), &[tokens.start - 1]))
        };
        let (key, stream) = (last(key)?, last(stream)?);
        let head = tensor_values(&model.weight(&ParamName::weight_of(&model.spec().modules.lm_head, 0))?)?;
        let first = tokens.target()[0] as usize;
        let row = &head[first * stream.len()..(first + 1) * stream.len()];
        let scale = self.hparams.strength * norm(&stream) / norm(row);
        let value: Vec<f32> = row.iter().map(|v| v * scale).collect();
        let direction: Vec<f32> = key.iter().map(|k| k / norm(&key).powi(2)).collect();
        let layout = model.spec().parameter(&model.spec().mlp_out_weight(layer))?.matrix_layout()?;
        Ok(match layout {
            WeightLayout::OutIn => WeightDelta::LowRank { left: Matrix::column(value), right: Matrix::row(direction) },
            WeightLayout::InOut => WeightDelta::LowRank { left: Matrix::column(direction), right: Matrix::row(value) },
        })
    }
}

fn norm(values: &[f32]) -> f32 {
    values.iter().map(|v| v * v).sum::<f32>().sqrt()
}
