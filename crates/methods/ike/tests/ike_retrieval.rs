//! Which demonstrations are found, and what is kept of the index between runs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use easyedit_core::{CheckedRequest, Corpora, EditRequest, HparamsDocument, Session, device};
use easyedit_ike::{DemonstrationIndex, IkeHparams, Kind, Retrieval, Selection, by_ratio, demonstrations_of, nearest};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use support::{Given, Letters, records};

fn session(corpora: impl Corpora + 'static, cache: Option<&PathBuf>) -> Session {
    let session = Session::new().with_corpora(corpora);
    match cache {
        Some(cache) => session.with_cache(cache),
        None => session,
    }
}

fn open(records: &[EditRequest], encoder: &Letters, cache: Option<&PathBuf>) -> easyedit_core::Result<DemonstrationIndex> {
    let device = device::select("cpu").unwrap();
    DemonstrationIndex::of_embeddings(records, Box::new(encoder.clone()), &device, &session(Given::default(), cache))
}

#[test]
fn the_nearest_are_those_of_the_brute_force_search() {
    let (records, encoder) = (records(150), Letters::default());
    let index = open(&records, &encoder, None).unwrap();
    let strings = demonstrations_of(&CheckedRequest::all(records.iter().cloned()).unwrap());
    assert_eq!((index.demonstrations(), index.records()), (&strings[..], 150));
    assert!(strings.len() > 300 && index.count(Kind::Copy) == 150 && index.count(Kind::Update) == 100);
    let queries = ["New Fact: Ada 8 lives in Velm\nPrompt: Ada 8 lives in\n\n", "something else altogether", strings[17].text.as_str()];
    let found = index.similarities(&queries).unwrap();
    for (query, row) in queries.iter().zip(found.values().chunks(strings.len())) {
        let asked = encoder.one(query);
        let cosine = |text: &str| asked.iter().zip(encoder.one(text)).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        let want: Vec<f64> = strings.iter().map(|one| cosine(&one.text)).collect();
        assert!(row.iter().zip(&want).all(|(got, want)| (f64::from(*got) - want).abs() < 1e-5));
        for k in [1, 7, strings.len(), 10 * strings.len()] {
            let chosen = index.nearest(query, k).unwrap();
            assert_eq!(chosen.len(), k.min(strings.len()));
            let mut sorted = want.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            for (one, want_similarity) in chosen.iter().zip(&sorted) {
                assert!((f64::from(one.similarity) - want_similarity).abs() < 1e-5);
                assert!((want[one.index] - want_similarity).abs() < 1e-5);
            }
            assert_eq!(chosen.iter().map(|one| one.index).collect::<HashSet<_>>().len(), chosen.len());
        }
    }
    assert_eq!(index.nearest(queries[2], 1).unwrap()[0].index, 17, "a string is nearest to itself");
    assert!(nearest(found.values(), 5, |_| false).is_empty());
    let tied = nearest(&[0.5, 0.7, 0.5, 0.7], 3, |_| true);
    assert_eq!(tied.iter().map(|one| one.index).collect::<Vec<_>>(), [1, 3, 0], "of equally near ones the first");
}

#[test]
fn a_ratio_takes_one_string_of_each_of_the_nearest_records() {
    let records = records(60);
    let strings = demonstrations_of(&CheckedRequest::all(records.iter().cloned()).unwrap());
    let similarities: Vec<f32> =
        strings.iter().map(|one| 1.0 - one.record as f32 / 100.0 - if one.kind == Kind::Copy { 0.0 } else { 0.3 }).collect();
    let select = |k, seed: u8| by_ratio(&strings, &similarities, k, [1, 3, 4], [seed; 32], |_| true);
    let chosen = select(16, 1);
    let of = |kind: Kind| chosen.iter().filter(|one| strings[one.index].kind == kind).count();
    assert_eq!([of(Kind::Copy), of(Kind::Update), of(Kind::Retain)], [2, 6, 8]);
    let taken: Vec<usize> = chosen.iter().map(|one| strings[one.index].record).collect();
    assert!(taken.windows(2).all(|pair| pair[0] < pair[1]), "the nearest first, each once: {taken:?}");
    assert!(*taken.last().unwrap() < 24, "few are passed over because they lack a kind: {taken:?}");
    assert!(chosen.windows(2).all(|pair| pair[0].similarity >= pair[1].similarity));
    assert_eq!(select(16, 1), chosen);
    assert_ne!(select(16, 2), chosen, "kinds are drawn by the seed");
    let all = select(1000, 1);
    assert!(all.len() <= 60 && all.iter().map(|one| strings[one.index].record).collect::<HashSet<_>>().len() == all.len());
    // Records that have no locality prompt give no retain string.
    let bare: Vec<EditRequest> = records.iter().map(|one| EditRequest { locality: Default::default(), ..one.clone() }).collect();
    let strings = demonstrations_of(&CheckedRequest::all(bare.iter().cloned()).unwrap());
    let chosen = by_ratio(&strings, &vec![0.5; strings.len()], 8, [1, 3, 4], [1; 32], |_| true);
    assert_eq!(chosen.len(), 4);
    let none = by_ratio(&strings, &vec![0.5; strings.len()], 8, [0, 0, 1], [1; 32], |_| true);
    assert!(none.is_empty());
}

fn files(cache: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(cache.join("ike")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn an_index_is_kept_and_belongs_to_encoder_and_records() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().to_owned();
    let (mut records, encoder) = (records(200), Letters::default());
    let first = open(&records, &encoder, Some(&cache)).unwrap();
    let strings = first.demonstrations().len();
    assert!(first.is_new() && encoder.embedded.load(Ordering::Relaxed) == strings);
    let file = first.file().unwrap();
    assert!(file.file_name().unwrap().to_string_lossy().starts_with("letters_200-"), "{}", file.display());
    let again = open(&records, &encoder, Some(&cache)).unwrap();
    assert!(!again.is_new() && encoder.embedded.load(Ordering::Relaxed) == strings);
    let query = ["New Fact: Cleo 2 lives in Tarn"];
    assert_eq!(again.similarities(&query).unwrap(), first.similarities(&query).unwrap());
    assert!(open(&records, &Letters { version: 1, ..Letters::default() }, Some(&cache)).unwrap().is_new(), "another encoder");
    records[0].target_new = "Velm".into();
    assert!(open(&records, &encoder, Some(&cache)).unwrap().is_new(), "another record");
    records.pop();
    assert!(open(&records, &encoder, Some(&cache)).unwrap().is_new(), "fewer records");
    assert_eq!(files(&cache).len(), 4);
    // The strings are in the file, too.
    let bytes = std::fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let sentences: Vec<String> = serde_json::from_slice(tensors.tensor("sentences").unwrap().data()).unwrap();
    assert_eq!(sentences, first.demonstrations().iter().map(|one| one.text.clone()).collect::<Vec<_>>());
    assert_eq!(tensors.tensor("embeddings").unwrap().shape(), [strings, 24]);
}

/// The file with its embeddings, or its header, exchanged.
fn forged(bytes: &[u8], dtype: Dtype, shape: Vec<usize>, data: &[u8], header: impl Fn(&str) -> String) -> Vec<u8> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).unwrap();
    let metadata = metadata.metadata().clone().unwrap().into_iter().map(|(key, value)| (key, header(&value))).collect();
    let view = TensorView::new(dtype, shape, data).unwrap();
    safetensors::serialize([("embeddings", view)], Some(metadata)).unwrap()
}

#[test]
fn a_hostile_file_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().to_owned();
    let (records, encoder) = (records(20), Letters::default());
    let index = open(&records, &encoder, Some(&cache)).unwrap();
    let n = index.demonstrations().len();
    let path = index.file().unwrap().to_owned();
    let sound = std::fs::read(&path).unwrap();
    let rows = {
        let tensors = SafeTensors::deserialize(&sound).unwrap();
        tensors.tensor("embeddings").unwrap().data().to_vec()
    };
    let same = |header: &str| header.to_owned();
    let nan: Vec<u8> = f32::NAN.to_le_bytes().repeat(n * 24);
    let huge = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    let hostile: [(&str, Vec<u8>); 10] = [
        ("empty", Vec::new()),
        ("not safetensors", b"sentences".repeat(99)),
        ("a header beyond the file", huge),
        ("cut short", sound[..sound.len() / 2].to_vec()),
        ("fewer rows", forged(&sound, Dtype::F32, vec![n - 1, 24], &rows[..(n - 1) * 96], same)),
        ("no matrix", forged(&sound, Dtype::F32, vec![n * 24], &rows, same)),
        ("another type", forged(&sound, Dtype::I32, vec![n, 24], &rows, same)),
        ("no width", forged(&sound, Dtype::F32, vec![n, 0], &[], same)),
        ("NaN", forged(&sound, Dtype::F32, vec![n, 24], &nan, same)),
        ("of another encoder", forged(&sound, Dtype::F32, vec![n, 24], &rows, |header| header.replace("letters 0", "letters 9"))),
    ];
    for (what, bytes) in hostile {
        std::fs::write(&path, bytes).unwrap();
        assert!(open(&records, &encoder, Some(&cache)).unwrap().is_new(), "{what}");
        assert_eq!(std::fs::read(&path).unwrap(), sound, "{what}");
        assert!(!open(&records, &encoder, Some(&cache)).unwrap().is_new(), "{what}");
    }
}

#[test]
fn an_encoder_that_fails_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().to_owned();
    let broken = Letters { broken: true, ..Letters::default() };
    let error = open(&records(20), &broken, Some(&cache)).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("some/letters") && error.contains("NaN"), "{error}");
    assert!(!cache.join("ike").exists());
    assert!(open(&[], &Letters::default(), None).map(|_| ()).unwrap_err().to_string().contains("train_data"));
    // Without an encoder the error says what else there is.
    let hparams = IkeHparams { train_data: Some("facts.json".into()), ..IkeHparams::default() };
    let given = Given { records: records(3), encoder: None };
    let device = device::select("cpu").unwrap();
    let error = DemonstrationIndex::open(&hparams, &device, &session(given.clone(), None)).map(|_| ()).unwrap_err().to_string();
    for part in ["sentence_model_name", "all-MiniLM-L6-v2 cannot be downloaded", "retrieval", "lexical"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let lexical = IkeHparams { retrieval: Retrieval::Lexical, ..hparams.clone() };
    let index = DemonstrationIndex::open(&lexical, &device, &session(given.clone(), None)).unwrap().unwrap();
    assert_eq!((index.encoder(), index.file(), index.records()), (None, None, 3));
    assert_eq!(index.nearest("Where does Cleo 2 live?", 1).unwrap()[0].index, 6);
    let none = IkeHparams { train_data: None, ..hparams };
    assert!(DemonstrationIndex::open(&none, &device, &session(given.clone(), None)).unwrap().is_none());
}

#[test]
fn hyperparameters_are_easyedits_and_checked() {
    let read = |text: &str| HparamsDocument::parse(text, "ike.yaml").and_then(|d| d.read::<IkeHparams>()).map_err(|e| e.to_string());
    let easyedit = "alg_name: IKE\nmodel_name: ./m\nsentence_model_name: ./all-MiniLM-L6-v2\ndevice: 0\nresults_dir: ./results\nk: 16\nmodel_parallel: false";
    let hparams = read(easyedit).unwrap();
    assert_eq!((hparams.k, hparams.selection, hparams.retrieval, hparams.train_data), (16, Selection::Nearest, Retrieval::Embedding, None));
    for (line, parts) in [
        ("k: 0", ["ike.yaml", "k is 0"]),
        ("ratio: [0, 0, 0]", ["ike.yaml", "ratio is all 0"]),
        ("sentence_model_name: \" \"", ["sentence_model_name is empty", "lexical"]),
        ("selection: nearer", ["selection", "nearest"]),
        ("retrieval: words", ["retrieval", "lexical"]),
        ("train_dat: x", ["train_dat", "did you mean train_data?"]),
    ] {
        let key = line.split(':').next().unwrap();
        let kept: Vec<&str> = easyedit.lines().filter(|kept| !kept.starts_with(&format!("{key}:"))).collect();
        let message = read(&format!("{}\n{line}", kept.join("\n"))).unwrap_err();
        assert!(parts.iter().all(|part| message.contains(part)), "{line}: {message}");
    }
}
