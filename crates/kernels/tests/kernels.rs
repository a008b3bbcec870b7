//! Statistics and templates against closed forms, on small random models.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

use easyedit_core::{Capture, LanguageModel, Module, Pass, Silent, Site, TokenBatch, tensor_values};
use easyedit_kernels::{MomentConfig, SecondMoments, TemplateConfig, cached_moments, context_templates};
use easyedit_models::tiny::tiny_model;

const FAMILIES: [&str; 2] = ["gpt2", "llama"];
const LAYER: usize = 1;

#[test]
fn moments_are_the_mean_of_outer_products_over_real_tokens() {
    let documents: Vec<String> = ["A first text.", "And a second, longer text.", "x"].map(str::to_owned).into();
    for family in FAMILIES {
        let model = tiny_model(family, 6).unwrap();
        let config = MomentConfig { batch_tokens: 20, ..MomentConfig::default() };
        let both = SecondMoments::collect(model.as_ref(), &[0, LAYER], &documents, &config, &Silent).unwrap();
        let width = model.spec().d_mlp;
        let mut sum = vec![0f64; width * width];
        let mut tokens = 0;
        for document in &documents {
            let ids = model.tokenizer().encode(document).unwrap().ids;
            let site = Site::new(LAYER, Module::MlpKey);
            let mut capture = Capture::new([site]);
            let mut pass = Pass::new(TokenBatch::new(&[ids]).unwrap(), &model.device());
            model.hidden(&mut pass, &mut capture).unwrap();
            for key in tensor_values(capture.get(site).unwrap()).unwrap().chunks_exact(width) {
                tokens += 1;
                for (r, a) in key.iter().enumerate() {
                    for (c, b) in key.iter().enumerate() {
                        sum[r * width + c] += f64::from(*a) * f64::from(*b);
                    }
                }
            }
        }
        assert_eq!(both[&LAYER].tokens(), tokens);
        for (got, want) in both[&LAYER].mean().iter().zip(&sum) {
            assert!((f64::from(*got) - want / tokens as f64).abs() < 1e-5);
        }
        let alone = SecondMoments::collect(model.as_ref(), &[0], &documents, &config, &Silent).unwrap();
        assert_eq!(alone[&0], both[&0], "one pass for several layers gives what one pass each gives");
    }
}

#[test]
fn statistics_come_from_the_cache_until_the_model_or_the_text_changes() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = tiny_model("llama", 7).unwrap();
    let documents = vec!["Some text to count over.".to_owned()];
    let config = MomentConfig::default();
    let cached = |model: &dyn LanguageModel, documents: &[String]| {
        let mut found = cached_moments(model, &[LAYER], "test", documents, &config, Some(folder.path()), &Silent).unwrap();
        let (moments, path) = found.remove(&LAYER).unwrap();
        (moments, path.unwrap())
    };
    let (first, path) = cached(model.as_ref(), &documents);
    let written = std::fs::metadata(&path).unwrap().modified().unwrap();
    let (again, same) = cached(model.as_ref(), &documents);
    assert_eq!((&again, &same), (&first, &path));
    assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), written, "not collected again");
    std::fs::write(&path, b"damaged").unwrap();
    assert_eq!(cached(model.as_ref(), &documents).0, first, "a damaged file is replaced");
    assert_ne!(cached(model.as_ref(), &["Other text.".to_owned()]).1, path);
    let deeper = model.spec().mlp_out_weight(model.spec().n_layers - 1);
    let weight = model.weight(&deeper).unwrap();
    model.set_weight(&deeper, weight * 2.0).unwrap();
    assert_eq!(cached(model.as_ref(), &documents).1, path, "layers above do not matter");
    let below = model.spec().mlp_out_weight(0);
    let weight = model.weight(&below).unwrap();
    model.set_weight(&below, weight * 2.0).unwrap();
    assert_ne!(cached(model.as_ref(), &documents).1, path);
}

#[test]
fn statistics_need_text() {
    let model = tiny_model("gpt2", 8).unwrap();
    let none = SecondMoments::collect(model.as_ref(), &[0], &[], &MomentConfig::default(), &Silent);
    assert!(none.unwrap_err().to_string().contains("no text"));
    let deep = SecondMoments::collect(model.as_ref(), &[99], &["x".to_owned()], &MomentConfig::default(), &Silent);
    assert!(deep.unwrap_err().to_string().contains("layer 99"));
}

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
    let other = TemplateConfig { seed: 4, ..config };
    assert_ne!(context_templates(model.as_ref(), &other, Some(folder.path()), &Silent).unwrap(), made);
}
