//! Edits that are taken back out of saved checkpoints.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use easyedit_core::{
    Edit, EditRequest, Fingerprint, LanguageModel, Matrix, OutputFolder, ParamName, Result as CoreResult, Silent, TensorDelta, WeightDelta,
    apply_all,
};
use easyedit_models::tiny::{convert_checkpoint, write_tiny_checkpoint};
use easyedit_models::*;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tempfile::TempDir;

const TYPES: [WeightType; 3] = [WeightType::F32, WeightType::F16, WeightType::Bf16];

/// Checkpoints in a folder of their own, the first of which is `base`.
struct Place(TempDir);

impl Place {
    fn new(family: &str, kind: WeightType) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        write_tiny_checkpoint(family, 5, &place.path("f32")).unwrap();
        convert_checkpoint(&place.path("f32"), &place.path("base"), kind).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn open(&self, name: &str) -> Checkpoint {
        Checkpoint::open(&self.path(name)).unwrap()
    }

    fn load(&self, name: &str) -> Box<dyn LanguageModel> {
        self.open(name).load(&easyedit_core::device::select("cpu").unwrap()).unwrap()
    }

    fn weights(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name).join(SINGLE_FILE)).unwrap()
    }

    /// As `easyedit apply` does it.
    fn apply(&self, from: &str, edits: &[Edit], to: &str) {
        let mut model = self.load(from);
        let _applied = apply_all(edits, &mut *model).unwrap();
        let names = edits.iter().flat_map(|edit| edit.deltas.keys());
        let weight = |name: &ParamName| Ok((name.clone(), Matrix::from_tensor(&model.weight(name)?)?));
        let changed: BTreeMap<ParamName, Matrix> = names.map(weight).collect::<CoreResult<_>>().unwrap();
        save_checkpoint(&self.open(from), &changed, edits, &self.path(to)).unwrap();
    }

    /// As `easyedit revert` does it; the ways in which the weights came back.
    fn revert(&self, from: &str, base: Option<&str>, edits: &[Edit], to: &str) -> Result<Vec<Way>> {
        let (from, base) = (self.open(from), base.map(|base| self.open(base)));
        let reverted = revert(&from, base.as_ref(), edits)?;
        let folder = OutputFolder::claim(&self.path(to)).unwrap();
        save_reverted_into(&from, &reverted, edits, &folder, &Silent)?;
        Ok(reverted.restored.values().map(|restored| restored.way).collect())
    }

    fn remove(&self, name: &str) {
        fs::remove_dir_all(self.path(name)).unwrap();
    }
}

/// Every kind of change there is.
const KINDS: [&str; 6] = ["low rank", "dense", "sparse", "zero", "rank 0", "below rounding"];

fn delta(kind: &str, [rows, cols]: [usize; 2], rng: &mut StdRng) -> WeightDelta {
    let mut matrix = |rows: usize, cols: usize, scale: f32| {
        Matrix::new(rows, cols, (0..rows * cols).map(|_| scale * (rng.random::<f32>() - 0.5)).collect()).unwrap()
    };
    match kind {
        "low rank" => WeightDelta::LowRank { left: matrix(rows, 2, 0.5), right: matrix(2, cols, 0.5) },
        "dense" => WeightDelta::Dense(matrix(rows, cols, 0.1)),
        "sparse" => {
            let values = matrix(1, 3, 1.0).values().to_vec();
            let size = (rows * cols) as u64;
            WeightDelta::Sparse { shape: [rows, cols], indices: vec![0, size / 2, size - 1], values }
        }
        "zero" => WeightDelta::Dense(matrix(rows, cols, 0.0)),
        "rank 0" => WeightDelta::LowRank { left: matrix(rows, 0, 1.0), right: matrix(0, cols, 1.0) },
        // Small even for the largest type that weights are stored in.
        "below rounding" => WeightDelta::LowRank { left: matrix(rows, 1, 1e-12), right: matrix(1, cols, 1.0) },
        other => panic!("{other}"),
    }
}

/// An edit of the parameters `names`; `model` is what its fingerprints are of.
fn edit(number: usize, model: &dyn LanguageModel, changes: &[(&ParamName, &str)], rng: &mut StdRng) -> Edit {
    let change = |(name, kind): &(&ParamName, &str)| {
        let weight = model.weight(name).unwrap();
        ((*name).clone(), TensorDelta::new(delta(kind, weight.dims(), rng), Fingerprint::of(&weight).unwrap()))
    };
    Edit {
        method: "TEST".into(),
        model: "tiny".into(),
        family: model.spec().family.clone(),
        hparams: json!({}),
        seed: 0,
        requests: vec![EditRequest { case_id: number, ..EditRequest::new("The tower is in", format!("tower {number}"), "Rome") }],
        diagnostics: Value::Null,
        deltas: changes.iter().map(change).collect(),
        overlay: None,
    }
}

/// Several edits of parameters chosen at random, each made for the original model, or for the model that those before it left, whose weights are
/// not rounded.
fn edits(model: &dyn LanguageModel, count: usize, is_sequential: bool, rng: &mut StdRng) -> Vec<Edit> {
    let names = model.parameter_names();
    // Few enough that edits meet.
    let names: Vec<&ParamName> = (0..3).map(|_| names.choose(rng).unwrap()).collect();
    let mut working = model.boxed_clone();
    (0..count)
        .map(|number| {
            let changes: BTreeMap<&ParamName, &str> = (0..2).map(|_| (*names.choose(rng).unwrap(), *KINDS.choose(rng).unwrap())).collect();
            let made = edit(number, &*working, &changes.into_iter().collect::<Vec<_>>(), rng);
            if is_sequential {
                let _applied = made.apply(&mut *working).unwrap();
            }
            made
        })
        .collect()
}

/// The largest distance of two files' numbers, in steps of their type at that number.
fn steps(a: &[u8], b: &[u8], kind: WeightType) -> f64 {
    let step = match kind {
        WeightType::F32 => 2f64.powi(-23),
        WeightType::F16 => 2f64.powi(-10),
        WeightType::Bf16 => 2f64.powi(-7),
    };
    let data = |bytes: &[u8]| kind.widen(&bytes[8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize..]).0;
    data(a).iter().zip(data(b)).map(|(a, b)| f64::from((a - b).abs()) / (step * f64::from(a.abs().max(1.0)))).fold(0.0, f64::max)
}

#[test]
fn apply_and_revert_give_the_bytes_from_before_in_every_family_and_type() {
    let mut rng = StdRng::seed_from_u64(1);
    let mut seen: BTreeMap<Way, usize> = BTreeMap::new();
    for (number, family) in families().iter().flat_map(|family| family.model_types).enumerate() {
        for (place, kind) in TYPES.into_iter().enumerate() {
            let is_sequential = (number + place) % 2 == 1;
            let place = Place::new(family, kind);
            let model = place.load("base");
            let all = edits(&*model, 3, is_sequential, &mut rng);
            let told = format!("{family} {} sequential: {is_sequential}", kind.name());
            place.apply("base", &all, "edited");
            // All of them.
            let ways = place.revert("edited", Some("base"), &all, "back").expect(&told);
            assert!(ways.iter().all(|way| *way == Way::FromBase), "{told}");
            assert!(place.weights("back") == place.weights("base"), "{told}");
            let ways = place.revert("edited", None, &all, "near").expect(&told);
            let far = steps(&place.weights("near"), &place.weights("base"), kind);
            assert!(far <= 2.0, "{told}: {far} steps");
            if ways.iter().all(|way| *way != Way::Subtracted) {
                assert!(place.weights("near") == place.weights("base"), "{told}: said to be exact");
            }
            ways.into_iter().for_each(|way| *seen.entry(way).or_default() += 1);
            // The last of them, with the model that holds the others.
            let (last, others) = all.split_last().unwrap();
            place.apply("base", others, "others");
            place.revert("edited", Some("others"), std::slice::from_ref(last), "one-back").expect(&told);
            assert!(place.weights("one-back") == place.weights("others"), "{told}: the last of three");
            // What is left can be taken back, too.
            place.revert("one-back", Some("base"), others, "all-back").expect(&told);
            assert!(place.weights("all-back") == place.weights("base"), "{told}: one after the other");
        }
    }
    for way in [Way::Unchanged, Way::SubtractedExactly, Way::Subtracted] {
        assert!(seen.get(&way).is_some_and(|count| *count > 5), "{seen:?}");
    }
}

/// The third edit is made for weights that were saved, so rounded, and edited again.
#[test]
fn edits_that_were_saved_one_by_one_are_taken_back_in_any_order() {
    for kind in TYPES {
        let place = Place::new("llama", kind);
        let mut rng = StdRng::seed_from_u64(2);
        let names = ["model.layers.1.mlp.down_proj.weight", "model.norm.weight"].map(ParamName::from);
        let changes: Vec<(&ParamName, &str)> = names.iter().zip(["low rank", "dense"]).collect();
        let mut all = Vec::new();
        for (number, (from, to)) in [("base", "one"), ("one", "two"), ("two", "three")].into_iter().enumerate() {
            let made = edit(number, &*place.load(from), &changes, &mut rng);
            place.apply(from, std::slice::from_ref(&made), to);
            all.push(made);
        }
        place.revert("three", Some("one"), &all[1..], "to-one").unwrap();
        assert!(place.weights("to-one") == place.weights("one"));
        place.revert("three", Some("base"), &all, "to-base").unwrap();
        assert!(place.weights("to-base") == place.weights("base"));
        // The first alone: no checkpoint ever held the other two, so it is subtracted.
        let ways = place.revert("three", None, &all[..1], "without-first").unwrap();
        assert_eq!(ways, [Way::Subtracted, Way::Subtracted]);
        let message = place.revert("three", Some("base"), &all[..1], "x").unwrap_err().to_string();
        assert!(message.contains("TEST edit of \"tower 1\", the TEST edit of \"tower 2\"") && message.contains("--base"), "{message}");
        // It is gone, and the other two are not.
        let message = place.revert("without-first", None, &all[..1], "x").unwrap_err().to_string();
        assert!(message.contains("tower 0") && message.contains("not in this model"), "{message}");
        place.revert("without-first", None, &all[1..], "near").unwrap();
        assert!(steps(&place.weights("near"), &place.weights("base"), kind) <= 6.0);
        // A checkpoint that was subtracted is near the base, not the base.
        let made = edit(7, &*place.load("base"), &changes, &mut rng);
        place.apply("base", std::slice::from_ref(&made), "other");
        assert!(place.weights("near") == place.weights("base") || place.revert("other", Some("near"), &[made], "x").is_err());
    }
}

#[test]
fn an_edit_that_is_not_in_the_model_and_a_wrong_base_are_refused_by_name() {
    let place = Place::new("gpt2", WeightType::F16);
    write_tiny_checkpoint("gpt2", 6, &place.path("stranger")).unwrap();
    let mut rng = StdRng::seed_from_u64(3);
    let name = ParamName::from("transformer.h.1.mlp.c_proj.weight");
    let model = place.load("base");
    let mut make = |number: usize, kind: &str| edit(number, &*model, &[(&name, kind)], &mut rng);
    let (one, two, none) = (make(1, "dense"), make(2, "low rank"), make(3, "below rounding"));
    place.apply("base", std::slice::from_ref(&one), "edited");
    let refused = |from: &str, base: Option<&str>, edits: &[&Edit], parts: &[&str]| {
        let edits: Vec<Edit> = edits.iter().map(|edit| (*edit).clone()).collect();
        let message = place.revert(from, base, &edits, "x").unwrap_err().to_string();
        for part in [name.as_str()].iter().chain(parts) {
            assert!(message.contains(part), "{from} {base:?}: {part} is not in {message}");
        }
    };
    refused("edited", None, &[&two], &["tower 2", "not in this model"]);
    refused("edited", Some("base"), &[&two], &["tower 2", "not in this model"]);
    refused("edited", Some("base"), &[&one, &one], &["tower 1", "not in this model"]);
    refused("edited", Some("stranger"), &[&one], &["stranger", "before the edits"]);
    refused("edited", Some("edited"), &[&one], &["before the edits"]);
    refused("base", None, &[&one], &["tower 1", "not in this model"]);
    refused("base", Some("base"), &[&one], &["tower 1", "not in this model"]);
    refused("stranger", None, &[&one], &["no record", "--base"]);
    refused("stranger", Some("base"), &[&one], &["not in this model"]);
    refused("stranger", Some("stranger"), &[&one], &["the edit was made for"]);
    // Nobody can tell whether an edit that changes nothing was made; its weights are as before either way.
    assert_eq!(place.revert("base", None, std::slice::from_ref(&none), "as-before").unwrap(), [Way::Unchanged]);
    // Without the record, the base tells.
    place.apply("base", &[one.clone(), two.clone()], "both");
    for folder in ["edited", "both"] {
        fs::remove_file(place.path(folder).join(PROVENANCE_FILE)).unwrap();
    }
    refused("edited", None, &[&one], &["no record", "--base"]);
    refused("both", Some("base"), &[&one], &["others are too"]);
    place.revert("both", Some("base"), &[one.clone(), two], "both-back").unwrap();
    place.revert("edited", Some("base"), &[one], "back").unwrap();
    assert!(place.weights("back") == place.weights("base") && place.weights("both-back") == place.weights("base"));
}

/// Records of version 0.1.0 have no fingerprints of edits, and say nothing of what was reverted.
#[test]
fn records_of_the_first_version_are_understood() {
    let place = Place::new("opt", WeightType::Bf16);
    let mut rng = StdRng::seed_from_u64(4);
    let name = ParamName::from("model.decoder.layers.0.fc2.weight");
    let made = edit(1, &*place.load("base"), &[(&name, "dense")], &mut rng);
    place.apply("base", std::slice::from_ref(&made), "edited");
    let change = |folder: &str, change: fn(&mut Value)| {
        let path = place.path(folder).join(PROVENANCE_FILE);
        let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut record);
        fs::write(path, record.to_string()).unwrap();
    };
    change("edited", |record| {
        record["edits"][0].as_object_mut().unwrap().remove("fingerprint").unwrap();
    });
    place.revert("edited", Some("base"), std::slice::from_ref(&made), "back").unwrap();
    assert!(place.weights("back") == place.weights("base"));
    change("back", |record| {
        record.as_object_mut().unwrap().remove("reverted").unwrap();
    });
    let message = place.revert("back", None, std::slice::from_ref(&made), "x").unwrap_err().to_string();
    assert!(message.contains("not in this model"), "{message}");
    place.apply("back", std::slice::from_ref(&made), "again");
    place.revert("again", Some("base"), &[made], "back-again").unwrap();
    assert!(place.weights("back-again") == place.weights("base"));
}

#[test]
fn the_card_of_a_reverted_model_does_not_call_it_edited() {
    let place = Place::new("llama", WeightType::F16);
    let own = "---\nlicense: mit\n---\n# Tiny\n\nIts own text.\n";
    let name = ParamName::from("model.layers.1.mlp.down_proj.weight");
    let mut rng = StdRng::seed_from_u64(5);
    for card in [None, Some(own)] {
        if let Some(card) = card {
            fs::write(place.path("base").join("README.md"), card).unwrap();
        }
        let model = place.load("base");
        let all = [edit(1, &*model, &[(&name, "dense")], &mut rng), edit(2, &*model, &[(&name, "low rank")], &mut rng)];
        let read = |name: &str| fs::read_to_string(place.path(name).join("README.md")).unwrap();
        place.apply("base", &all, "saved");
        assert!(read("saved").contains("# base, edited"));
        place.revert("saved", Some("base"), &all, "back").unwrap();
        let text = read("back");
        assert!(!text.contains("edited") && !text.contains("model-editing"), "{text}");
        assert!(text.contains("# base, edits taken back") && text.contains("tower 1") && text.contains("tower 2"), "{text}");
        assert_eq!((text.contains("license: mit"), text.matches("Its own text.").count()), (card.is_some(), usize::from(card.is_some())));

        place.revert("saved", None, &all[..1], "half").unwrap();
        let text = read("half");
        let still = text.find("still in it").unwrap();
        assert!(text.find("tower 1").unwrap() < still && text.find("tower 2").unwrap() > still, "{text}");
        place.revert("half", None, &all[1..], "none").unwrap();
        let text = read("none");
        assert!(!text.contains("edited") && !text.contains("still in it"), "{text}");
        for folder in ["saved", "back", "half", "none"] {
            place.remove(folder);
        }
    }
}
