use std::collections::BTreeMap;
use std::path::Path;

use easyedit_core::{Error, HostTensor, Result, Trained};
use easyedit_models::{PytorchSource, TensorSource};
use serde_json::Value;

/// What methods learned for models of the repository: method, name, bytes of the file.
const BUILT_IN: &[(&str, &str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/trained.rs"));

/// Prefix of what a file of the Python programs keeps of the method; the rest is the state of the training.
const MODEL: &str = "model.";
/// A pickled object of another library beside the tensors.
const CONFIG: &str = "model_config";

/// What the method `method` learned, by the path of a file or a name that is built in.
///
/// Files are this program's (`model.safetensors` of a training), or those that EasyEdit and the authors of the methods save with `torch.save`. Of
/// the latter only tensors are read; what they are the settings for is not known.
///
/// # Errors
///
/// [`Error::Hparams`] naming what is built in if there is no such file, [`Error::Format`] if it is damaged or something else.
pub fn open_trained(name: &str, method: &str) -> Result<Trained> {
    let path = Path::new(name);
    if path.is_file() {
        return match is_safetensors(path)? {
            true => Trained::load(path),
            false => of_torch(path, method),
        };
    }
    let known = || BUILT_IN.iter().filter(|(of_method, ..)| of_method.eq_ignore_ascii_case(method));
    if let Some((_, name, bytes)) = known().find(|(_, known, _)| known.eq_ignore_ascii_case(name)) {
        return Trained::parse(Path::new(name), bytes);
    }
    let names: Vec<&str> = known().map(|(_, name, _)| *name).collect();
    Err(Error::hparams(format!(
        "archive: there is no file {name:?}, and nothing of that name is built in for {method} ({}); train it with `easyedit train`, or set archive to \
         a file",
        names.join(", ")
    )))
}

/// Whether a file begins as safetensors do: with the length of a JSON object.
fn is_safetensors(path: &Path) -> Result<bool> {
    use std::io::Read;
    let mut start = [0u8; 9];
    let mut file = std::fs::File::open(path).map_err(|e| Error::io("read", path, e))?;
    Ok(file.read_exact(&mut start).is_ok() && start.get(8) == Some(&b'{'))
}

/// The tensors that a Python program saved for the method.
fn of_torch(path: &Path, method: &str) -> Result<Trained> {
    let source = PytorchSource::open_archive(path, &[CONFIG]).map_err(Error::other)?;
    let names = source.names();
    let is_nested = names.iter().any(|name| name.starts_with(MODEL));
    let mut tensors = BTreeMap::new();
    for full in names {
        let name = match full.strip_prefix(MODEL) {
            Some(name) => name,
            None if is_nested => continue,
            None => &full,
        };
        let shape = source.shape(&full).unwrap_or_default().to_vec();
        let values = source.read(&full, &shape).map_err(Error::other)?;
        // A count is a tensor without sides.
        let shape = if shape.is_empty() { vec![1] } else { shape };
        let tensor =
            HostTensor::new(shape, values).ok_or_else(|| Error::format(path, format!("holds {full} in a shape it does not fit")))?;
        tensors.insert(name.to_owned(), tensor);
    }
    Ok(Trained { method: method.to_owned(), tensors, facts: Value::Null })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_says_what_is() {
        let message = open_trained("nowhere", "MEND").unwrap_err().to_string();
        assert!(message.contains("nowhere") && message.contains("easyedit train"), "{message}");
    }
}
