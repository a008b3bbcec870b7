//! YAML files of hyperparameters, read as every method's.

use easyedit::HparamsDocument;
use easyedit::ft_api::FtApiHparams;

use super::seed;
use crate::scratch::{file, folder};
use crate::small_model::model;

pub(super) fn run(data: &[u8]) -> bool {
    let path = file(&folder("hparams"), "hparams.yaml", data);
    let Ok(document) = HparamsDocument::load(&path) else { return false };
    let _ = (document.to_yaml(), document.to_json());
    let mut accepted = false;
    let registry = easyedit::registry();
    for entry in registry.methods() {
        let mut document = document.clone();
        document.set("alg_name", entry.name);
        if let Ok(method) = entry.build(&document) {
            let _ = method.hparams();
            accepted = true;
        }
    }
    document.read::<FtApiHparams>().is_ok() || accepted
}

pub(super) fn seeds() -> Vec<(String, Vec<u8>)> {
    let registry = easyedit::registry();
    let by_rule = registry.methods().map(|entry| {
        let document = entry.hparams_for(model().spec()).unwrap();
        seed(entry.name, document.to_yaml().unwrap())
    });
    let mut seeds: Vec<_> = by_rule.collect();
    let yaml = "alg_name: FT-Api\nmodel_name: gpt-3.5-turbo\napi_key: $OPENAI_API_KEY\nresults_dir: results\npoll_seconds: 5\n";
    seeds.push(seed("ft-api", yaml));
    seeds.push(seed("anchors", "a: &a [1, 2.5, ~, \"x\"]\nalg_name: !tag ROME\nb: *a\n<<: {v_lr: '5e-1'}\n? [k]\n: |\n  text\n"));
    seeds
}
