//! The CPU passes the check that other devices are held to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use easyedit_benches::device_check::{Check, GROUPS, Options, run};

#[test]
fn the_cpu_passes_every_check() {
    let (mut checks, mut names) = (Vec::<Check>::new(), Vec::new());
    let sound = run(&Options::new("cpu"), &mut |_, name| names.push(name.to_owned()), &mut |check| checks.push(check.clone())).unwrap();
    let failed: Vec<&Check> = checks.iter().filter(|check| !check.passes()).collect();
    assert!(sound && failed.is_empty(), "{failed:?}");
    assert_eq!(names, checks.iter().map(|check| check.name.clone()).collect::<Vec<_>>());
    for group in GROUPS {
        assert!(checks.iter().any(|check| check.group == group), "{group}");
    }
}

#[test]
fn a_value_that_is_not_the_golden_one_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let data = easyedit_benches::data_folder();
    std::fs::create_dir(folder.path().join("golden")).unwrap();
    let text = std::fs::read_to_string(data.join("golden/value-optimisation.json")).unwrap();
    let mut stored: serde_json::Value = serde_json::from_str(&text).unwrap();
    let first = stored[0]["delta"][0].as_f64().unwrap();
    stored[0]["delta"][0] = serde_json::json!(first + 0.1);
    std::fs::write(folder.path().join("golden/value-optimisation.json"), stored.to_string()).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(data.join("tiny-world"), folder.path().join("tiny-world")).unwrap();
    let options = Options { data: folder.path().to_owned(), groups: vec!["value".into()], ..Options::new("cpu") };
    let mut checks = Vec::new();
    let sound = run(&options, &mut |_, _| {}, &mut |check| checks.push(check.clone())).unwrap();
    assert!(!sound && checks.iter().filter(|check| !check.passes()).count() == 1, "{checks:?}");
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    let error = run(&Options::new("gpu"), &mut |_, _| {}, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("unknown device"), "{error}");
}
