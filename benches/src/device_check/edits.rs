//! The optimisation of a value, against a stored one; and a whole ROME edit, against the CPU's.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use burn::tensor::Device;
use easyedit::kernels::{Contexts, ValueConfig, ValueSite, optimize_values};
use easyedit::models::Checkpoint;
use easyedit::tokens::FactToken;
use easyedit::{CheckedRequest, GenerationConfig, LanguageModel, Session, Silent, TextCorpora, generate, hparams, registry, tensor_values};
use serde::{Deserialize, Serialize};

use super::{Checker, largest_difference, relative_difference};

/// Contexts of the stored optimisation: fixed, so that no sampling enters.
const TEMPLATES: [&str; 3] = ["{}", "It is well known. {}", "In the world of today, {}"];
/// Texts that an edit's statistics are over: enough for the check, quick on any device.
const SAMPLES: u64 = 300;

/// An optimised value as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GoldenValue {
    /// The model of the tiny world.
    pub model: String,
    /// The layer at whose MLP output δ is added.
    pub layer: usize,
    /// The loss of every pass, in nats.
    pub losses: Vec<f32>,
    /// δ behind the last pass: `[d_model]`.
    pub delta: Vec<f32>,
}

/// Where the optimised values are stored, in the folder `data`.
pub fn golden_value_file(data: &Path) -> PathBuf {
    data.join("golden/value-optimisation.json")
}

/// Optimises the value of the tiny world's first fact on `device`: a few steps of Adam at a rate at which rounding does not grow.
///
/// # Errors
///
/// If the model cannot be loaded or run.
pub fn golden_value(data: &Path, model: &str, device: &Device) -> Result<GoldenValue> {
    let name = model.to_owned();
    let model = load(data, model, device)?;
    let templates = TEMPLATES.map(str::to_owned);
    let contexts = Contexts::of(&*model, &first_request(data)?, &templates, FactToken::SubjectLast)?;
    let layer = 0;
    let config = ValueConfig {
        steps: 8,
        lr: 0.05,
        betas: [0.9, 0.999],
        weight_decay: 1e-3,
        clamp_norm_factor: 20.0,
        kl_factor: 0.0625,
        loss_threshold: 0.0,
        site: ValueSite::MlpOutput,
        nll_factor: 1.0,
        once_predicted: None,
    };
    let mut found = None;
    optimize_values(&*model, &[&contexts], layer, &config, &Silent, &mut |_, value, _| {
        found = Some(value);
        Ok(())
    })?;
    let optimized = found.context("no value was found")?;
    Ok(GoldenValue {
        model: name,
        layer,
        losses: optimized.losses.iter().map(|loss| loss.total as f32).collect(),
        delta: optimized.delta.iter().map(|value| *value as f32).collect(),
    })
}

pub(super) fn check_value(checker: &mut Checker<'_>) -> Result<()> {
    let data = checker.options.data.clone();
    let file = golden_value_file(&data);
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read the golden values {}", file.display()))?;
    let stored: Vec<GoldenValue> = serde_json::from_str(&text).with_context(|| format!("{} is broken", file.display()))?;
    for model in checker.options.models.clone() {
        let Some(stored) = stored.iter().find(|stored| stored.model == model) else {
            bail!("{} holds no value of {model}", file.display());
        };
        let tolerance = checker.tolerances.value;
        let mut computed = None;
        checker.check("value", &format!("{model}, loss of each pass"), tolerance, |device, _| {
            let value = golden_value(&data, &model, device)?;
            let difference = largest_difference(&value.losses, &stored.losses);
            computed = Some(value);
            Ok(difference)
        });
        checker.check("value", &format!("{model}, what is added"), tolerance, |_, _| {
            let value = computed.context("there is none: the optimisation failed")?;
            Ok(relative_difference(&value.delta, &stored.delta))
        });
    }
    Ok(())
}

pub(super) fn check_rome(checker: &mut Checker<'_>) {
    let data = checker.options.data.clone();
    let tolerance = checker.tolerances.edit;
    for model in checker.options.models.clone() {
        let mut says = None;
        checker.check("rome", &format!("{model}, change of the weights"), tolerance, |device, cpu| {
            let (right, _) = rome_edit(&data, &model, cpu)?;
            let (found, said) = rome_edit(&data, &model, device)?;
            says = Some(said);
            Ok(relative_difference(&found, &right))
        });
        checker.check("rome", &format!("{model}, says the new answer"), 0.0, |_, _| match says {
            Some((said, target)) if said.trim_start().starts_with(target.trim()) => Ok(0.0),
            Some((said, target)) => bail!("it says {:?} instead of {:?}", said.trim(), target.trim()),
            None => bail!("there is no edit"),
        });
    }
}

/// Change of the first edited weight by the tiny world's first request, and how the edited model continues the prompt, with the target.
fn rome_edit(data: &Path, model: &str, device: &Device) -> Result<(Vec<f32>, (String, String))> {
    let mut model = load(data, model, device)?;
    let request = first_request(data)?;
    let registry = registry();
    let entry = registry.get("ROME")?;
    let mut document = hparams::find(entry, &model.spec().name, model.spec())?.document;
    // Sampled contexts may differ by a rounding.
    document.set("context_template_length_params", Vec::<u64>::new());
    document.set("mom2_n_samples", SAMPLES);
    let corpora = TextCorpora { corpus: Some(data.join("tiny-world/corpus.txt")) };
    let session = Session::new().with_corpora(corpora);
    let edit = entry.build(&document)?.edit(&*model, std::slice::from_ref(&request), &session)?;
    let changed = edit.deltas.values().next().context("the edit changes nothing")?;
    // Multiplied out on the CPU, so that it is the edit that is compared.
    let change = tensor_values(&changed.delta.to_tensor(&easyedit::device::select("cpu")?))?;
    let _ = edit.apply(&mut *model)?;
    let prompt = model.tokenizer().encode(request.prompt())?.ids;
    let said = generate(&*model, &[prompt], &GenerationConfig::greedy(8))?;
    let said = said.first().context("nothing was generated")?.text(&*model)?;
    Ok((change, (said, request.target_new().to_owned())))
}

fn load(data: &Path, model: &str, device: &Device) -> Result<Box<dyn LanguageModel>> {
    Ok(Checkpoint::open(&data.join("tiny-world/models").join(model))?.load(device)?)
}

fn first_request(data: &Path) -> Result<CheckedRequest> {
    let file = data.join("tiny-world/requests.json");
    let first = easyedit::data::read_requests(&file)?.into_iter().next();
    Ok(CheckedRequest::new(first.with_context(|| format!("{} holds no requests", file.display()))?)?)
}
