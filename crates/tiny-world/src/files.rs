use std::collections::BTreeMap;
use std::path::Path;

use easyedit_core::{LanguageModel, Tokenizer, tensor_values, write_atomically};
use half::f16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use crate::architecture::{Architecture, encoder_config};
use crate::tokenizer::{Around, END, PAD, train, wrap};
use crate::{Error, Practice, Result, Sentence, TrainingConfig, World};

/// The tokenizer of a model of this world.
///
/// # Errors
///
/// [`Error::UnknownModel`]; [`Error::Tokenizer`] if it cannot be trained.
pub fn tokenizer(name: &str, world: &World) -> Result<Tokenizer> {
    let around = if Architecture::named(name)?.ends_texts() { Around::End } else { Around::Nothing };
    Ok(wrap(train(&lines(world), around)?))
}

/// Every sentence of the world.
fn lines(world: &World) -> Vec<String> {
    world.sentences().iter().map(Sentence::text).collect()
}

/// Writes a model as a Hugging Face folder in the folder `root` of the tiny world: `config.json`, `model.safetensors` (f16),
/// `tokenizer.json`, `tokenizer_config.json`; and `training.json` with the settings it was trained with.
///
/// # Errors
///
/// [`Error::Write`], and if the device does not give the weights back.
pub fn save_model(name: &str, model: &dyn LanguageModel, training: &TrainingConfig, root: &Path) -> Result<()> {
    let architecture = Architecture::named(name)?;
    let folder = architecture.folder_in(root);
    let mut config = architecture.config()?;
    write_json(&folder.join("training.json"), &json!(training))?;
    config["torch_dtype"] = json!("float16");
    write_json(&folder.join("config.json"), &config)?;
    let special = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": PAD,
        "clean_up_tokenization_spaces": false,
    });
    write_json(&folder.join("tokenizer_config.json"), &special)?;
    let text = model.tokenizer().inner().to_string(true).map_err(|e| Error::Tokenizer(e.to_string()))?;
    write(&folder.join("tokenizer.json"), text.as_bytes())?;

    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for parameter in model.parameter_names() {
        let weight = model.weight(&parameter)?;
        let shape = match weight.dims() {
            [1, length] => vec![length],
            shape => shape.to_vec(),
        };
        let bytes = tensor_values(&weight)?.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
        tensors.insert(parameter.to_string(), (shape, bytes));
    }
    let path = folder.join("model.safetensors");
    let broken = |e: safetensors::SafeTensorError| Error::Write { path: path.clone(), message: e.to_string() };
    let views = tensors
        .iter()
        .map(|(name, (shape, bytes))| Ok((name, TensorView::new(Dtype::F16, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(broken)?;
    write(&path, &safetensors::serialize(views, Some([("format".to_owned(), "pt".to_owned())].into())).map_err(broken)?)
}

/// Writes the world's text and datasets: `corpus.txt`, `facts.json`, `requests.json`, `zsre.json`, `counterfact.json`, and
/// the records of `practice`.
///
/// # Errors
///
/// [`Error::Write`].
pub fn save_world(world: &World, folder: &Path) -> Result<()> {
    write(&folder.join("corpus.txt"), (lines(world).join("\n\n") + "\n").as_bytes())?;
    let facts: Vec<Value> = world
        .facts()
        .iter()
        .map(|fact| {
            json!({"relation": fact.relation.name, "subject": fact.subject, "alias": fact.alias, "object": fact.object,
                   "prompt": fact.prompt, "trained": fact.trained, "held_out": fact.held_out})
        })
        .collect();
    write_json(&folder.join("facts.json"), &facts.into())?;
    let requests = world.requests();
    let json = |requests: Vec<Value>| Value::from(requests);
    let native = requests.iter().map(|r| serde_json::to_value(r).unwrap_or_default()).collect();
    write_json(&folder.join("requests.json"), &json(native))?;
    write_json(&folder.join("zsre.json"), &json(requests.iter().map(crate::dataset::zsre).collect()))?;
    write_json(&folder.join("counterfact.json"), &json(requests.iter().map(crate::dataset::counterfact).collect()))?;
    let Practice { train, val, test } = world.practice();
    for (name, records) in [("train", train), ("val", val), ("test", test)] {
        let lines: Vec<String> = records.iter().map(|record| serde_json::to_value(record).unwrap_or_default().to_string()).collect();
        write(&folder.join(format!("practice/{name}.jsonl")), (lines.join("\n") + "\n").as_bytes())?;
    }
    Ok(())
}

/// Writes networks that are yet to be trained, as folders with `config.json` and tokenizer and without weights: an encoder of
/// texts, `untrained/tiny-world-encoder`, and a smaller model of each architecture in `names`, `untrained/tiny-world-small-gpt2`, ...
///
/// # Errors
///
/// [`Error::UnknownModel`], [`Error::Write`].
pub fn save_untrained(names: &[&str], world: &World, folder: &Path) -> Result<()> {
    let folder = folder.join("untrained");
    let encoder = wrap(train(&lines(world), Around::BothEnds)?);
    write_untrained(&folder.join("tiny-world-encoder"), &encoder_config(), &encoder)?;
    for name in names {
        write_untrained(
            &folder.join(format!("tiny-world-small-{name}")),
            &Architecture::named(name)?.small_config()?,
            &tokenizer(name, world)?,
        )?;
    }
    Ok(())
}

fn write_untrained(folder: &Path, config: &Value, tokenizer: &Tokenizer) -> Result<()> {
    write_json(&folder.join("config.json"), config)?;
    let text = tokenizer.inner().to_string(false).map_err(|e| Error::Tokenizer(e.to_string()))?;
    write(&folder.join("tokenizer.json"), text.as_bytes())
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    write(path, format!("{value:#}\n").as_bytes())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| Error::Write { path: folder.to_owned(), message: e.to_string() })?;
    }
    Ok(write_atomically(path, |file| file.write_all(bytes))?)
}
