//! The places where a method is known: texts in, texts out.

use anyhow::{Context, Result};

use super::names::Names;

type Register = fn(&str, &Names) -> Result<String>;

/// The files that are changed, and how.
pub(super) const FILES: &[(&str, Register)] = &[
    ("Cargo.toml", workspace),
    ("crates/easyedit/Cargo.toml", facade_manifest),
    ("crates/easyedit/src/lib.rs", facade),
    ("docs/architecture.md", architecture),
];

/// The method beside which others are put.
const NEIGHBOUR: &str = "rome";

fn workspace(text: &str, names: &Names) -> Result<String> {
    let name = &names.name;
    let line = format!("easyedit-{name} = {{ path = \"crates/methods/{name}\", version = \"0.1.0\" }}");
    after_line(text, &format!("easyedit-{NEIGHBOUR} ="), &line)
}

fn facade_manifest(text: &str, names: &Names) -> Result<String> {
    let name = &names.name;
    let default = text.lines().find(|line| line.starts_with("default = [")).context("it has no default features")?;
    let beside = format!("\"{NEIGHBOUR}\"");
    let with = default.replacen(&beside, &format!("{beside}, \"{name}\""), 1);
    if with == default {
        anyhow::bail!("{NEIGHBOUR} is no default feature");
    }
    let text = text.replacen(default, &with, 1);
    let text = after_line(&text, &format!("{NEIGHBOUR} = ["), &format!("{name} = [\"dep:easyedit-{name}\"]"))?;
    let dependency = format!("easyedit-{name} = {{ workspace = true, optional = true }}");
    after_line(&text, &format!("easyedit-{NEIGHBOUR} = {{"), &dependency)
}

fn facade(text: &str, names: &Names) -> Result<String> {
    let end = "    registry\n}\n";
    let at = text.find(end).context("it has no function that ends in the registry")?;
    let (head, tail) = text.split_at(at);
    let (name, crate_name) = (&names.name, names.name.replace('-', "_"));
    let line = format!("    #[cfg(feature = \"{name}\")]\n    registry.register::<easyedit_{crate_name}::{}>();\n", names.type_name);
    Ok([head, &line, tail].concat())
}

fn architecture(text: &str, names: &Names) -> Result<String> {
    let start = format!("easyedit -> easyedit-{NEIGHBOUR}");
    let line = text.lines().find(|line| line.starts_with(&start)).with_context(|| format!("it has no line `{start}...`"))?;
    let drawn = line.replacen(&start, &format!("{start}, easyedit-{}", names.name), 1);
    let text = text.replacen(line, &drawn, 1);
    after_line(&text, &format!("easyedit-{NEIGHBOUR} ->"), &format!("easyedit-{} -> easyedit-kernels, easyedit-core", names.name))
}

/// `text` with `new` behind its first line that begins with `start`.
fn after_line(text: &str, start: &str, new: &str) -> Result<String> {
    let mut lines: Vec<&str> = text.lines().collect();
    let at = lines.iter().position(|line| line.starts_with(start)).with_context(|| format!("it has no line that begins with `{start}`"))?;
    lines.insert(at + 1, new);
    Ok(lines.join("\n") + "\n")
}
