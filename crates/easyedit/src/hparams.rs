//! Finding the hyperparameters for a method and a model.

use std::path::{Path, PathBuf};

use easyedit_core::{HparamsDocument, MethodEntry, ModelSpec, Result};

/// The repository's `hparams/METHOD/*.yaml`: method, file name, text.
const BUILT_IN: &[(&str, &str, &str)] = include!(concat!(env!("OUT_DIR"), "/hparams.rs"));

/// Folder that is looked into before the built-in files.
const FOLDER: &str = "hparams";

/// Names that stand for one shape of model, in the form of [`plain`]; the first is the name of its file.
const SPELLINGS: &[&[&str]] = &[
    &["gptj6b", "gptj"],
    &["llama7b", "llama27b"],
    &["baichuan7b", "baichuan27b"],
    &["chatglm26b", "chatglm2"],
    &["internlm7b", "internlmchat7b"],
    &["llama38b", "llama318b"],
];

/// Keys that say of a model what it says itself.
const MODEL_KEYS: &[&str] =
    &["model_name", "rewrite_module_tmp", "layer_module_tmp", "mlp_module_tmp", "attn_module_tmp", "ln_f_module", "lm_head_module"];

/// What the names of all models of the tiny world begin with, in the form of [`plain`]; those that have no file of their own share one.
const TINY_WORLD: &str = "tinyworld";

/// Endings that say how a checkpoint is stored or was tuned, not which shape the model has.
const VARIANTS: &[&str] = &[
    "gguf",
    "safetensors",
    "hf",
    "q40",
    "q41",
    "q50",
    "q51",
    "q80",
    "q4km",
    "q4ks",
    "q6k",
    "f16",
    "f32",
    "bf16",
    "instruct",
    "chat",
    "base",
    "v01",
    "v02",
    "v03",
];

/// Hyperparameters, and where they come from.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundHparams {
    /// The values.
    pub document: HparamsDocument,
    /// Where they come from.
    pub source: HparamsSource,
}

/// Where hyperparameters come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HparamsSource {
    /// A file in the folder `hparams`.
    File(PathBuf),
    /// A file of the repository that is compiled in, as `METHOD/model.yaml`.
    BuiltIn(String),
    /// No file fits the model: by the method's rule, from its depth and module names.
    Derived,
    /// No file fits the name of a model that only a service knows: the method's defaults.
    Defaults,
}

impl std::fmt::Display for HparamsSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::BuiltIn(name) => write!(f, "built-in {name}"),
            Self::Derived => f.write_str("derived from the model's depth and module names"),
            Self::Defaults => f.write_str("the method's defaults"),
        }
    }
}

/// Finds the hyperparameters of a method for a model: in `./hparams/METHOD/*.yaml`, else in the files that are compiled in, else by
/// the method's rule.
///
/// A file is the model's if its name, or its `model_name`, is one of the names the model goes by (`model_name`'s last part or the
/// spec's name, in any case and punctuation), and it fits the spec: the same module names, no layer beyond the model's depth.
///
/// # Errors
///
/// If a file in `./hparams` that is the model's by name cannot be read, or no values can be derived.
pub fn find(entry: &MethodEntry, model_name: &str, spec: &ModelSpec) -> Result<FoundHparams> {
    find_in(Path::new(FOLDER), BUILT_IN, entry, model_name, spec)
}

fn find_in(
    folder: &Path,
    built_in: &[(&str, &str, &str)],
    entry: &MethodEntry,
    model_name: &str,
    spec: &ModelSpec,
) -> Result<FoundHparams> {
    let own = vec![plain(model_name), plain(&spec.name)];
    let shared = own.iter().any(|name| name.starts_with(TINY_WORLD)).then(|| TINY_WORLD.to_owned());
    let accept = |document: HparamsDocument| match fits(&document, entry, spec) {
        true => complete(document, entry, spec).map(Some),
        false => Ok(None),
    };
    for wanted in [own, shared.into_iter().collect()] {
        if let Some(found) = find_named(folder, built_in, entry.name, &wanted, &accept)? {
            return Ok(found);
        }
    }
    Ok(FoundHparams { document: entry.hparams_for(spec)?, source: HparamsSource::Derived })
}

/// Finds the hyperparameters of `method` for a model that only a service knows, by its name alone: in `./hparams/METHOD/*.yaml`, else in
/// the files that are compiled in.
///
/// # Errors
///
/// If a file in `./hparams` that is the model's by name cannot be read.
pub fn find_by_name(method: &str, model_name: &str) -> Result<Option<FoundHparams>> {
    find_named(Path::new(FOLDER), BUILT_IN, method, &[plain(model_name)], &|document| Ok(Some(document)))
}

/// The file of one of the names `wanted` that `accept` takes, from the folder or else built in.
fn find_named(
    folder: &Path,
    built_in: &[(&str, &str, &str)],
    of_method: &str,
    wanted: &[String],
    accept: &dyn Fn(HparamsDocument) -> Result<Option<HparamsDocument>>,
) -> Result<Option<FoundHparams>> {
    for path in yaml_files(&folder.join(of_method)) {
        let by_name = path.file_stem().is_some_and(|stem| is_one_of(&stem.to_string_lossy(), wanted));
        match HparamsDocument::load(&path) {
            Ok(document) if by_name || names_model(&document, wanted) => {
                if let Some(document) = accept(document)? {
                    return Ok(Some(FoundHparams { document, source: HparamsSource::File(path) }));
                }
            }
            Ok(_) => {}
            Err(error) if by_name => return Err(error),
            Err(error) => tracing::warn!("passed over: {error}"),
        }
    }
    for (method, file, text) in built_in {
        if !method.eq_ignore_ascii_case(of_method) {
            continue;
        }
        let name = format!("{method}/{file}");
        let document = HparamsDocument::parse(text, &format!("built-in {name}"))?;
        let stem = file.strip_suffix(".yaml").unwrap_or(file);
        if (is_one_of(stem, wanted) || names_model(&document, wanted))
            && let Some(document) = accept(document)?
        {
            return Ok(Some(FoundHparams { document, source: HparamsSource::BuiltIn(name) }));
        }
    }
    Ok(None)
}

/// Whether a file names the modules of its model.
pub fn is_complete(document: &HparamsDocument) -> bool {
    MODEL_KEYS.iter().all(|key| document.text(key).is_some())
}

/// Fills in the names of modules, and of the model, that a file leaves out: the model knows them itself.
///
/// # Errors
///
/// If no values can be derived for the model.
pub fn complete(mut document: HparamsDocument, entry: &MethodEntry, spec: &ModelSpec) -> Result<HparamsDocument> {
    if is_complete(&document) {
        return Ok(document);
    }
    let derived = entry.hparams_for(spec)?;
    for key in MODEL_KEYS {
        if let (None, Some(value)) = (document.text(key), derived.text(key)) {
            document.set(key, value);
        }
    }
    Ok(document)
}

fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut paths: Vec<PathBuf> = paths.filter(|p| p.is_file() && p.extension().is_some_and(|e| e == "yaml" || e == "yml")).collect();
    paths.sort();
    paths
}

fn names_model(document: &HparamsDocument, wanted: &[String]) -> bool {
    document.text("model_name").is_some_and(|name| is_one_of(name, wanted))
}

fn is_one_of(name: &str, wanted: &[String]) -> bool {
    let name = plain(name);
    !name.is_empty() && wanted.contains(&name)
}

/// The last part of a path or Hub id in lower case, without punctuation and the maker's `Meta-`, without [`VARIANTS`], in the first of
/// its [`SPELLINGS`].
fn plain(name: &str) -> String {
    let last = name.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or(name);
    let mut text: String = last.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect();
    if let Some(rest) = text.strip_prefix("meta").filter(|rest| rest.starts_with("llama")) {
        text = rest.to_owned();
    }
    while let Some(shorter) = VARIANTS.iter().find_map(|ending| text.strip_suffix(ending)).filter(|rest| !rest.is_empty()) {
        text = shorter.to_owned();
    }
    match SPELLINGS.iter().find(|names| names.contains(&text.as_str())).and_then(|names| names.first()) {
        Some(first) => (*first).to_owned(),
        None => text,
    }
}

/// Whether a file of the right name is for a model like this one: a path may end in `gpt2-xl` and hold something else.
fn fits(document: &HparamsDocument, entry: &MethodEntry, spec: &ModelSpec) -> bool {
    match misfit(document, entry, spec) {
        Some(reason) => {
            tracing::warn!("{} is named after the model, but {reason}; passed over", document.origin());
            false
        }
        None => true,
    }
}

fn misfit(document: &HparamsDocument, entry: &MethodEntry, spec: &ModelSpec) -> Option<String> {
    if let Some(method) = document.method().filter(|method| !method.eq_ignore_ascii_case(entry.name)) {
        return Some(format!("it is for the method {method}"));
    }
    let modules = &spec.modules;
    let templates = [("rewrite_module_tmp", &modules.mlp_out), ("mlp_module_tmp", &modules.mlp), ("layer_module_tmp", &modules.layer)];
    for (key, ours) in templates {
        if let Some(theirs) = document.text(key).filter(|theirs| theirs.trim_end_matches(".weight") != ours.as_str()) {
            return Some(format!("its {key} is {theirs:?} and the model's {ours:?}"));
        }
    }
    let values = document.to_json().ok()?;
    let deepest = |key: &str| match values.get(key) {
        Some(serde_json::Value::Array(layers)) => layers.iter().filter_map(serde_json::Value::as_u64).max(),
        Some(one) => one.as_u64(),
        None => None,
    };
    ["layers", "v_loss_layer"].into_iter().find_map(|key| {
        let layer = deepest(key).filter(|layer| *layer >= spec.n_layers as u64)?;
        Some(format!("its {key} names layer {layer} and the model has {}", spec.n_layers))
    })
}

#[cfg(test)]
mod tests {
    use easyedit_core::{CheckedRequest, EditMethod, Error, Hparams, LanguageModel, Method, ModelMap, ModuleNames, Registry, Session};
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Serialize, Deserialize)]
    struct DemoHparams {
        alg_name: String,
        layers: Vec<usize>,
    }

    impl Hparams for DemoHparams {
        const METHOD: &'static str = "DEMO";
        const KEYS: &'static [&'static str] = &["alg_name", "layers"];
    }

    struct Demo;

    impl EditMethod for Demo {
        fn name(&self) -> &'static str {
            "DEMO"
        }
        fn hparams(&self) -> serde_json::Value {
            serde_json::Value::Null
        }
        fn prepare(&mut self, _: &dyn LanguageModel, _: &Session) -> Result<()> {
            Ok(())
        }
        fn edit(&mut self, _: &dyn LanguageModel, _: &[CheckedRequest], _: &Session) -> Result<easyedit_core::Edit> {
            Err(Error::Batch("not asked here".into()))
        }
    }

    impl Method for Demo {
        type Hparams = DemoHparams;
        const SUMMARY: &'static str = "a method for tests";
        fn new(_: DemoHparams) -> Self {
            Self
        }
        fn hparams_for(spec: &ModelSpec) -> DemoHparams {
            DemoHparams { alg_name: "DEMO".into(), layers: vec![spec.n_layers / 2] }
        }
    }

    fn spec(name: &str) -> ModelSpec {
        ModelSpec {
            family: "gpt2".into(),
            name: name.into(),
            n_layers: 48,
            d_model: 8,
            d_mlp: 32,
            vocab_size: 10,
            max_positions: 64,
            modules: ModuleNames {
                layer: "transformer.h.{}".into(),
                mlp: "transformer.h.{}.mlp".into(),
                mlp_out: "transformer.h.{}.mlp.c_proj".into(),
                attention: "transformer.h.{}.attn".into(),
                final_norm: "transformer.ln_f".into(),
                lm_head: "transformer.wte".into(),
            },
            tied_head: true,
            encoder: None,
            map: ModelMap::default(),
        }
    }

    const XL: &str = "alg_name: DEMO\nmodel_name: ./hugging_cache/gpt2-xl\nlayers: [17]\nrewrite_module_tmp: transformer.h.{}.mlp.c_proj";

    fn found(folder: &Path, built_in: &[(&str, &str, &str)], model: &str, spec: &ModelSpec) -> Result<FoundHparams> {
        let mut registry = Registry::new();
        registry.register::<Demo>();
        find_in(folder, built_in, registry.get("demo")?, model, spec)
    }

    #[test]
    fn names_are_compared_without_case_punctuation_and_variants() {
        for (a, b) in [
            ("./hugging_cache/gpt2-xl", "openai-community/GPT2-XL"),
            ("llama-7b", "meta-llama/Llama-2-7b-hf"),
            ("baichuan-7b", "/models/Baichuan2-7B-Chat/"),
            ("gpt-j-6B", "EleutherAI/gpt-j-6b"),
            ("llama3-8b", "meta-llama/Meta-Llama-3-8B-Instruct"),
            ("mistral-7b", "mistralai/Mistral-7B-Instruct-v0.2"),
            ("qwen2.5-7b", "Qwen/Qwen2.5-7B-Instruct"),
            ("smollm2-135m", "SmolLM2-135M-Instruct-GGUF"),
            ("smollm2-135m", "C:\\m\\smollm2-135m-instruct-q4_1.gguf"),
        ] {
            assert_eq!(plain(a), plain(b), "{a} {b}");
        }
        for (a, b) in [("gpt2", "gpt2-xl"), ("llama-7b", "llama-13b"), ("smollm2-135m", "smollm2-360m")] {
            assert_ne!(plain(a), plain(b));
        }
        assert_eq!(plain("gguf"), "gguf");
    }

    #[test]
    fn a_file_in_the_folder_comes_before_the_built_in_and_that_before_the_rule() {
        let dir = tempfile::tempdir().unwrap();
        let built_in = [("DEMO", "gpt2-xl.yaml", XL), ("OTHER", "gpt2-xl.yaml", "alg_name: OTHER")];
        let spec = spec("gpt2-xl");
        let first = found(dir.path(), &built_in, "gpt2-xl", &spec).unwrap();
        assert_eq!(first.source, HparamsSource::BuiltIn("DEMO/gpt2-xl.yaml".into()));
        std::fs::create_dir(dir.path().join("DEMO")).unwrap();
        let path = dir.path().join("DEMO/mine.yaml");
        std::fs::write(&path, XL.replace("[17]", "[3]")).unwrap();
        let second = found(dir.path(), &built_in, "openai-community/gpt2-xl", &spec).unwrap();
        assert_eq!(second.source, HparamsSource::File(path));
        assert!(second.document.to_yaml().unwrap().contains("- 3"));
        let third = found(dir.path(), &[], "something-else", &self::spec("something-else")).unwrap();
        assert_eq!(third.source, HparamsSource::Derived);
        assert_eq!(third.document.read::<DemoHparams>().unwrap().layers, [24]);
    }

    #[test]
    fn a_file_named_after_the_model_that_does_not_fit_it_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let mut other = spec("gpt2-xl");
        other.modules.mlp_out = "model.layers.{}.mlp.down_proj".into();
        assert_eq!(found(dir.path(), &[("DEMO", "gpt2-xl.yaml", XL)], "gpt2-xl", &other).unwrap().source, HparamsSource::Derived);
        let mut shallow = spec("gpt2-xl");
        shallow.n_layers = 12;
        assert_eq!(found(dir.path(), &[("DEMO", "gpt2-xl.yaml", XL)], "gpt2-xl", &shallow).unwrap().source, HparamsSource::Derived);
    }

    #[test]
    fn a_broken_file_named_after_the_model_is_an_error_and_another_is_not() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("DEMO")).unwrap();
        std::fs::write(dir.path().join("DEMO/other.yaml"), "- 1").unwrap();
        assert_eq!(found(dir.path(), &[], "gpt2-xl", &spec("gpt2-xl")).unwrap().source, HparamsSource::Derived);
        std::fs::write(dir.path().join("DEMO/gpt2-xl.yaml"), "- 1").unwrap();
        assert!(found(dir.path(), &[], "gpt2-xl", &spec("gpt2-xl")).unwrap_err().to_string().contains("gpt2-xl.yaml"));
    }

    #[test]
    fn a_services_model_is_found_by_its_name_alone() {
        let dir = tempfile::tempdir().unwrap();
        let built_in = [("API", "gpt-3.5-turbo.yaml", "alg_name: API\nmodel_name: gpt-3.5-turbo")];
        let find = |model: &str| find_named(dir.path(), &built_in, "Api", &[plain(model)], &|document| Ok(Some(document))).unwrap();
        assert_eq!(find("GPT-3.5-Turbo").unwrap().source, HparamsSource::BuiltIn("API/gpt-3.5-turbo.yaml".into()));
        assert_eq!(find("gpt-3.5-turbo-0125"), None);
    }

    #[test]
    fn every_built_in_file_is_a_flat_map_for_its_folder() {
        for (method, file, text) in BUILT_IN {
            let document = HparamsDocument::parse(text, file).unwrap();
            assert!(document.method().is_some_and(|m| m.eq_ignore_ascii_case(method)), "{method}/{file}");
        }
    }
}
