//! Compiles `built-in-hparams/METHOD/*.yaml` (a link to the repository's `hparams`, a copy in a package) into the library, as a table of (method, file, text);
//! `built-in-untrained/NAME/{config,tokenizer}.json` (a link to `data/tiny-world/untrained`), as a table of (name, both texts); and
//! `built-in-trained/METHOD/*.safetensors` (a link to `data/trained`), as a table of (method, name, bytes).

use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    // Cargo does not look behind a link for changes. Relative, because another copy of the repository may use what was built here.
    let folder = &fs::read_link("built-in-hparams").unwrap_or_else(|_| PathBuf::from("built-in-hparams"));
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={}", folder.display());
    let mut table = String::from("&[\n");
    for method in entries(folder)?.into_iter().filter(|path| path.is_dir()) {
        for file in entries(&method)?.into_iter().filter(|path| path.extension().is_some_and(|e| e == "yaml")) {
            let text = fs::read_to_string(&file)?;
            table.push_str(&format!("    ({:?}, {:?}, {text:?}),\n", name(&method), name(&file)));
        }
    }
    table.push(']');
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("cargo sets OUT_DIR"))?);
    fs::write(out.join("hparams.rs"), table)?;
    fs::write(out.join("untrained.rs"), untrained()?)?;
    fs::write(out.join("trained.rs"), trained(&out)?)
}

/// The table of networks that are yet to be trained.
fn untrained() -> io::Result<String> {
    let folder = fs::read_link("built-in-untrained").unwrap_or_else(|_| PathBuf::from("built-in-untrained"));
    println!("cargo:rerun-if-changed={}", folder.display());
    let mut table = String::from("&[\n");
    for network in entries(&folder)?.into_iter().filter(|path| path.is_dir()) {
        let text = |file: &str| fs::read_to_string(network.join(file));
        table.push_str(&format!("    ({:?}, {:?}, {:?}),\n", name(&network), text("config.json")?, text("tokenizer.json")?));
    }
    table.push(']');
    Ok(table)
}

/// The table of what methods learned for models of the repository.
fn trained(out: &Path) -> io::Result<String> {
    let folder = fs::read_link("built-in-trained").unwrap_or_else(|_| PathBuf::from("built-in-trained"));
    println!("cargo:rerun-if-changed={}", folder.display());
    let mut table = String::from("&[\n");
    for method in entries(&folder)?.into_iter().filter(|path| path.is_dir()) {
        for file in entries(&method)?.into_iter().filter(|path| path.extension().is_some_and(|e| e == "safetensors")) {
            let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            // A copy, because a path of this repository would stay behind where what was built here is used.
            let copy = format!("{}-{}", name(&method), name(&file));
            fs::copy(&file, out.join(&copy))?;
            table.push_str(&format!("    ({:?}, {stem:?}, include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{copy}\"))),\n", name(&method)));
        }
    }
    table.push(']');
    Ok(table)
}

/// The folder's entries by name; none where there is no folder (as in a packaged crate).
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut paths = fs::read_dir(folder)?.map(|entry| entry.map(|e| e.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
