//! Context templates, on a small random model.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

use easyedit_core::Silent;
use easyedit_kernels::{TemplateConfig, context_templates};
use easyedit_models::tiny::tiny_model;

#[test]
fn templates_are_seeded_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny_model("gpt2", 9).unwrap();
    let config = TemplateConfig { lengths: vec![(12, 5), (16, 10)], seed: 3 };
    let made = context_templates(model.as_ref(), &config, Some(folder.path()), &Silent).unwrap();
    assert_eq!(made.len(), 16);
    assert!(made[0] == "{}" && made[1..].iter().all(|t| t.ends_with(". {}") && t.matches(['{', '}']).count() == 2));
    assert!(made[1].starts_with("The") && made[2].starts_with("Therefore"));
    assert_eq!(context_templates(model.as_ref(), &config, Some(folder.path()), &Silent).unwrap(), made);
    assert_eq!(context_templates(model.as_ref(), &config, None, &Silent).unwrap(), made);
    // A flipped bit, and the templates of another seed.
    let files = || std::fs::read_dir(folder.path().join("templates")).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let path = files().remove(0);
    let sound = std::fs::read(&path).unwrap();
    let place = sound.windows(9).position(|text| text == b"Therefore").unwrap();
    let mut flipped = sound.clone();
    flipped[place] ^= 1;
    std::fs::write(&path, flipped).unwrap();
    assert_eq!(context_templates(model.as_ref(), &config, Some(folder.path()), &Silent).unwrap(), made);
    assert_eq!(std::fs::read(&path).unwrap(), sound, "the damaged file is replaced");
    let other = TemplateConfig { seed: 4, ..config.clone() };
    context_templates(model.as_ref(), &other, Some(folder.path()), &Silent).unwrap();
    std::fs::copy(files().into_iter().find(|file| *file != path).unwrap(), &path).unwrap();
    assert_eq!(context_templates(model.as_ref(), &config, Some(folder.path()), &Silent).unwrap(), made, "of another seed");
    assert_ne!(context_templates(model.as_ref(), &other, Some(folder.path()), &Silent).unwrap(), made);
}
