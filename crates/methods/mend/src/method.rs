use std::collections::BTreeMap;

use burn::tensor::Tensor;
use easyedit_core::{
    CheckedRequest, Edit, EditMethod, Error, Hparams, LanguageModel, Matrix, Method, ModelSpec, ParamName, Parameter, Result, Session,
    TensorDelta, Trained, WeightDelta, WeightLayout,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::MendHparams;
use crate::archive::LearnedSettings;
use crate::factors::factors;
use crate::facts::edit_rows;
use crate::inner::InnerWeights;
use crate::network::{Network, Transformed};

/// The method: [`MendHparams`], and the network that their archive holds.
#[derive(Clone, Debug)]
pub struct Mend {
    hparams: MendHparams,
    learned: Option<Learned>,
}

/// A trained network, ready to edit.
#[derive(Clone, Debug)]
struct Learned {
    inner: InnerWeights,
    network: Network,
    /// Factor of the rates.
    strength: f64,
}

impl Method for Mend {
    type Hparams = MendHparams;
    const SUMMARY: &'static str = "a trained network turns the gradient of a fact into an edit (Mitchell et al. 2022)";

    fn new(hparams: MendHparams) -> Self {
        Self { hparams, learned: None }
    }

    fn hparams_for(spec: &ModelSpec) -> MendHparams {
        // A built-in archive, where there is one, has the model's name.
        MendHparams { archive: Some(spec.name.clone()), ..MendHparams::for_spec(spec) }
    }
}

impl Mend {
    /// Takes over what was learned, in place of the archive that the hyperparameters name.
    ///
    /// # Errors
    ///
    /// [`Error::Hparams`] or [`Error::Tensor`] if it does not fit the model or the settings.
    pub fn load(&mut self, model: &dyn LanguageModel, trained: &Trained) -> Result<()> {
        let hparams = match LearnedSettings::of(trained)? {
            Some(learned) => {
                learned.check_base(model)?;
                learned.applied_to(&self.hparams)?
            }
            None => MendHparams { descent: Some(self.hparams.descent.unwrap_or(false)), ..self.hparams.clone() },
        };
        let inner = InnerWeights::new(model.spec(), &hparams.inner_params(model.spec()))?;
        // The network is replaced by the file's, whatever it begins as.
        let mut network = Network::new(&inner, &hparams, &mut ChaCha8Rng::seed_from_u64(0), &model.device());
        network.load(&trained.tensors)?;
        let sign = if hparams.descent == Some(true) { -1.0 } else { 1.0 };
        self.learned = Some(Learned { inner, network, strength: sign * hparams.lr_scale });
        Ok(())
    }

    fn learned(&self) -> Result<&Learned> {
        self.learned.as_ref().ok_or_else(missing_archive)
    }
}

impl EditMethod for Mend {
    fn name(&self) -> &'static str {
        MendHparams::METHOD
    }

    fn hparams(&self) -> Value {
        serde_json::to_value(&self.hparams).unwrap_or_default()
    }

    fn strength_hparams(&self) -> &'static [&'static str] {
        &["lr_scale", "archive"]
    }

    fn prepare(&mut self, model: &dyn LanguageModel, session: &Session) -> Result<()> {
        let archive = self.hparams.archive.as_deref().ok_or_else(missing_archive)?;
        let trained = session.corpora().trained(archive, MendHparams::METHOD)?;
        if !trained.method.eq_ignore_ascii_case(MendHparams::METHOD) {
            return Err(Error::hparams(format!("archive: {archive} is what {} has learned, not {}", trained.method, MendHparams::METHOD)));
        }
        self.load(model, &trained)
    }

    fn edit(&mut self, model: &dyn LanguageModel, requests: &[CheckedRequest], session: &Session) -> Result<Edit> {
        let Learned { inner, network, strength } = self.learned()?;
        let rows = edit_rows(model, requests)?;
        let found = factors(model, inner, &[&rows])?;
        let (mut deltas, mut norms, mut tokens) = (BTreeMap::new(), serde_json::Map::new(), serde_json::Map::new());
        for (number, (parameter, factors)) in inner.weights().iter().zip(found.of_weights).enumerate() {
            let count = factors.tokens.iter().sum::<usize>();
            let factors = network.normalized(number, factors)?;
            let Some(transformed) = network.transform(number, &factors, *strength, &model.device())? else { continue };
            let delta = change(parameter, transformed)?.compact(&model.device())?;
            if !delta.is_finite() {
                return Err(Error::NotFinite(format!("tensor {}: the edit is not finite; the archive is of no use here", parameter.name)));
            }
            norms.insert(parameter.name.to_string(), json!(delta.norm()));
            tokens.insert(parameter.name.to_string(), json!(count));
            deltas.insert(parameter.name.clone(), TensorDelta::new(delta, model.fingerprint(&parameter.name)?));
        }
        let loss = found.before.first().map(|likelihood| likelihood.mean());
        let diagnostics = json!({ "loss_before": loss, "norms": norms, "tokens": tokens });
        Ok(Edit::of(self, model, requests, session.seed(), diagnostics, deltas as BTreeMap<ParamName, TensorDelta>))
    }
}

/// The change `Δ̃ᵀ X̃` of a weight, in the checkpoint's orientation.
fn change(parameter: &Parameter, Transformed { x, delta }: Transformed) -> Result<WeightDelta> {
    let flat = |tensor: Tensor<3>| {
        let [edits, tokens, width] = tensor.dims();
        tensor.reshape([edits * tokens, width])
    };
    let (x, delta) = (Matrix::from_tensor(&flat(x))?, Matrix::from_tensor(&flat(delta))?);
    Ok(match parameter.matrix_layout()? {
        WeightLayout::OutIn => WeightDelta::LowRank { left: delta.transpose(), right: x },
        WeightLayout::InOut => WeightDelta::LowRank { left: x.transpose(), right: delta },
    })
}

fn missing_archive() -> Error {
    Error::hparams(
        "archive is missing: MEND edits with a network that was trained for the model; train one with `easyedit train` and set archive to its \
         model.safetensors, or to EasyEdit's file",
    )
}
