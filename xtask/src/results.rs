//! One table of all editing methods on a real model: every method edits every fact alone into the original model, in a process of its own
//! (so that peak memory is the method's). What a method came to is kept as soon as it is done; the page is written from what is kept.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Map, Value, json};

use crate::machine::header;
use crate::process::command;
use crate::programs::{Program, built};

/// Between these lines of the page the table is put.
const BEGIN: &str = "<!-- methods: begin -->";
const END: &str = "<!-- methods: end -->";

/// What `cargo xtask results` is asked for.
#[derive(Args)]
pub(crate) struct ResultsArguments {
    /// Model to edit
    #[arg(long, default_value = "smollm2-135m")]
    model: String,
    /// Facts
    #[arg(long, default_value = "data/facts/smollm2-135m.json")]
    requests: PathBuf,
    /// Rows to measure anew, e.g. `ROME,FT-L`; all by default, `none` only writes the page
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Page with the table
    #[arg(long, default_value = "docs/results.md")]
    page: PathBuf,
    /// Folder in which the rows are kept
    #[arg(long, default_value = "benches/runs")]
    kept: PathBuf,
}

/// Keys that differ from a method's file for the model.
type Keys = &'static [(&'static str, &'static str)];

/// A form of a method that is shown besides others.
struct Variant {
    name: &'static str,
    method: &'static str,
    keys: Keys,
}

/// A row of the table.
struct Row {
    name: String,
    method: String,
    keys: Keys,
}

/// Methods that are shown in more than one form. FT-L is FT with a bound on each weight's change (Zhu et al. 2020), the largest of those tried that
/// binds: 15 steps of 5e-4 go no further than 7.5e-3. LoRA without a rank budget takes smaller steps than AdaLoRA. Both values were chosen on every
/// other fact, from the first on.
const VARIANTS: &[Variant] = &[
    Variant { name: "FT-M", method: "FT", keys: &[] },
    Variant { name: "FT-L", method: "FT", keys: &[("objective_optimization", "prompt_last"), ("norm_constraint", "6e-3")] },
    Variant { name: "LoRA", method: "LoRA", keys: &[("lora_type", "lora"), ("lr", "8.5e-4")] },
    Variant { name: "AdaLoRA", method: "LoRA", keys: &[("lora_type", "adalora")] },
];

/// Measures the rows that are asked for and writes the page.
pub(crate) fn run(root: &Path, arguments: &ResultsArguments) -> Result<()> {
    let program = built(root, &Program::Binary("easyedit"), &[])?;
    let program = program.to_str().context("the path of the program is not Unicode")?;
    let file = root.join(&arguments.kept).join(format!("methods-{}.json", arguments.model));
    let mut kept = read(&file)?;
    let methods = methods(root, program)?;
    let rows: Vec<Row> = methods.iter().flat_map(|method| rows_of(method)).collect();
    let known: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    let wanted: Vec<&str> = arguments.rows.iter().map(String::as_str).filter(|name| *name != "none").collect();
    if let Some(unknown) = wanted.iter().find(|name| !known.iter().any(|known| known.eq_ignore_ascii_case(name))) {
        bail!("there is no row {unknown:?}; the rows are {}", known.join(", "));
    }
    for Row { name, method, keys } in &rows {
        let all = arguments.rows.is_empty();
        if !all && !wanted.iter().any(|wanted| wanted.eq_ignore_ascii_case(name)) {
            continue;
        }
        let found = measure(root, program, arguments, method, keys).with_context(|| name.clone())?;
        eprintln!("  {}", line(name, &found));
        kept.insert(name.clone(), found);
        write(&file, &kept)?;
    }
    let page = root.join(&arguments.page);
    let text = std::fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
    let text = with_table(&text, &table(&kept, &known)).with_context(|| page.display().to_string())?;
    std::fs::write(&page, text).with_context(|| format!("cannot write {}", page.display()))
}

/// Names of the methods the program has, without those of models elsewhere.
fn methods(root: &Path, program: &str) -> Result<Vec<String>> {
    let listed = json_of(root, &[program, "--json", "methods"])?;
    let names = listed.as_array().into_iter().flatten().filter_map(|method| method["name"].as_str());
    Ok(names.filter(|name| !name.ends_with("-Api")).map(str::to_owned).collect())
}

fn rows_of(method: &str) -> Vec<Row> {
    let row = |name: &str, keys| Row { name: name.to_owned(), method: method.to_owned(), keys };
    let variants: Vec<&Variant> = VARIANTS.iter().filter(|variant| variant.method.eq_ignore_ascii_case(method)).collect();
    match variants.is_empty() {
        true => vec![row(method, &[])],
        false => variants.into_iter().map(|variant| row(variant.name, variant.keys)).collect(),
    }
}

/// Edits all facts with a method; what its table row needs.
fn measure(root: &Path, program: &str, arguments: &ResultsArguments, method: &str, keys: &[(&str, &str)]) -> Result<Value> {
    let requests = arguments.requests.to_str().context("the path of the facts is not Unicode")?;
    let folder = crate::programs::target(root).join("results");
    std::fs::create_dir_all(&folder)?;
    let mut line = vec![program, "--json", "--quiet", "edit", "--model", &arguments.model, "--method", method, "--requests", requests];
    let own = folder.join(format!("{method}.yaml"));
    let own_path = own.to_string_lossy().into_owned();
    if !keys.is_empty() {
        let shipped = root.join("hparams").join(method).join(format!("{}.yaml", arguments.model));
        let text = std::fs::read_to_string(&shipped).with_context(|| format!("cannot read {}", shipped.display()))?;
        std::fs::write(&own, with_keys(&text, keys))?;
        line.extend(["--hparams", &own_path]);
    }
    let started = Instant::now();
    let run = json_of(root, &line)?;
    let summary = &run["summary"];
    let metrics = |group: &Value| -> Value {
        let group = &group["post"];
        json!({
            "reliability": group["rewrite_acc"], "generalization": group["rephrase_acc"],
            "locality": mean(&group["locality"]), "portability": mean(&group["portability"]),
        })
    };
    let records = summary["records"].as_u64().unwrap_or_default();
    let mut found = header(root);
    found.remove("rustc");
    found.extend(Map::from_iter([
        ("records".to_owned(), records.into()),
        ("failed".to_owned(), summary["failed"].clone()),
        ("keys".to_owned(), keys.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect::<Map<_, _>>().into()),
        ("teacher_forced".to_owned(), metrics(&summary["mean_metrics"])),
        ("free_decoding".to_owned(), metrics(&summary["free_decoding"])),
        ("seconds_an_edit".to_owned(), (summary["seconds"]["edit"].as_f64().unwrap_or_default() / records.max(1) as f64).into()),
        ("seconds_prepare".to_owned(), summary["seconds"]["prepare"].clone()),
        ("seconds_run".to_owned(), started.elapsed().as_secs_f64().into()),
        ("peak_memory_mb".to_owned(), summary["peak_memory_mb"].clone()),
    ]));
    Ok(found.into())
}

/// The mean of a map's numbers; null without any.
fn mean(map: &Value) -> Value {
    let numbers: Vec<f64> = map.as_object().into_iter().flat_map(Map::values).filter_map(Value::as_f64).collect();
    if numbers.is_empty() { Value::Null } else { (numbers.iter().sum::<f64>() / numbers.len() as f64).into() }
}

/// A hyperparameter file with some keys set anew.
fn with_keys(text: &str, keys: &[(&str, &str)]) -> String {
    let is_set = |line: &&str| keys.iter().any(|(key, _)| line.strip_prefix(key).is_some_and(|rest| rest.starts_with(':')));
    let mut lines: Vec<String> = text.lines().filter(|line| !is_set(line)).map(str::to_owned).collect();
    lines.extend(keys.iter().map(|(key, value)| format!("{key}: {value}")));
    lines.join("\n") + "\n"
}

fn json_of(root: &Path, line: &[&str]) -> Result<Value> {
    eprintln!("$ easyedit {}", line.get(1..).unwrap_or_default().join(" "));
    let output = command(root, line).output().context("cannot start easyedit")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("easyedit printed no JSON")
}

fn read(file: &Path) -> Result<BTreeMap<String, Value>> {
    match std::fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{} is not a file of rows", file.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

fn write(file: &Path, kept: &BTreeMap<String, Value>) -> Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let beside = file.with_extension("json.part");
    std::fs::write(&beside, serde_json::to_string_pretty(kept)? + "\n").with_context(|| format!("cannot write {}", beside.display()))?;
    std::fs::rename(&beside, file).with_context(|| format!("cannot write {}", file.display()))
}

/// The table of the rows that are kept, in the order of `names`.
fn table(kept: &BTreeMap<String, Value>, names: &[&str]) -> String {
    let mut text = String::from(
        "| method | teacher-forced: reliability, generalization, locality, portability | free decoding | seconds an edit | peak memory |\n|---|---|---|---|---|\n",
    );
    for (name, found) in names.iter().filter_map(|name| Some((name, kept.get(*name)?))) {
        text.push_str(&line(name, found));
        text.push('\n');
    }
    text
}

fn line(name: &str, found: &Value) -> String {
    let scores = |group: &str| {
        let score = |key: &str| found[group][key].as_f64().map_or_else(|| "–".to_owned(), |score| format!("{score:.2}"));
        ["reliability", "generalization", "locality", "portability"].map(score).join(", ")
    };
    let failed = match found["failed"].as_u64() {
        Some(count @ 1..) => format!(" ({count} of {} could not be edited)", found["records"]),
        _ => String::new(),
    };
    let memory = found["peak_memory_mb"].as_f64().map_or_else(|| "–".to_owned(), |mb| format!("{:.2} GB", mb / 1000.0));
    let seconds = found["seconds_an_edit"].as_f64().unwrap_or_default();
    format!("| {name}{failed} | {} | {} | {seconds:.2} | {memory} |", scores("teacher_forced"), scores("free_decoding"))
}

/// The page with another table between its marks.
fn with_table(page: &str, table: &str) -> Result<String> {
    let (before, rest) = page.split_once(BEGIN).with_context(|| format!("has no line {BEGIN}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("has no line {END}"))?;
    Ok(format!("{before}{BEGIN}\n\n{table}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_keeps_what_is_around_the_table() {
        let page = format!("# Page\n\n{BEGIN}\nold\n{END}\n\nmore\n");
        let new = with_table(&page, "| a |\n").unwrap();
        assert!(new.starts_with("# Page\n") && new.ends_with("\nmore\n") && new.contains("| a |") && !new.contains("old"));
        assert_eq!(with_table(&new, "| a |\n").unwrap(), new);
        assert!(with_table("no marks", "").unwrap_err().to_string().contains("begin"));
    }

    #[test]
    fn keys_are_replaced_or_added() {
        let text = with_keys("alg_name: FT\nlr: 1\nlr_scale: 2\n", &[("lr", "5e-4"), ("norm", "0.1")]);
        assert_eq!(text, "alg_name: FT\nlr_scale: 2\nlr: 5e-4\nnorm: 0.1\n");
    }

    #[test]
    fn rows_tell_what_was_measured_and_what_failed() {
        let found = json!({
            "records": 20, "failed": 1, "seconds_an_edit": 1.5, "peak_memory_mb": 980.0,
            "teacher_forced": { "reliability": 0.95, "generalization": 0.5, "locality": 1.0, "portability": null }, "free_decoding": {},
        });
        let line = line("X", &found);
        assert_eq!(line, "| X (1 of 20 could not be edited) | 0.95, 0.50, 1.00, – | –, –, –, – | 1.50 | 0.98 GB |");
        let kept = BTreeMap::from([("X".to_owned(), found)]);
        assert_eq!(table(&kept, &["Y", "X"]).lines().count(), 3);
    }

    #[test]
    fn rows_are_kept_whole() {
        let folder = std::env::temp_dir().join(format!("easyedit-rows-{}", std::process::id()));
        let file = folder.join("methods.json");
        assert!(read(&file).unwrap().is_empty());
        let kept = BTreeMap::from([("X".to_owned(), json!({ "records": 1 }))]);
        write(&file, &kept).unwrap();
        assert_eq!(read(&file).unwrap(), kept);
        std::fs::write(&file, "[").unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("methods.json"));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
