//! `easyedit methods` and `easyedit models`

use anyhow::Result;
use easyedit::ft_api::FtApi;
use easyedit::models::{families, short_names, text_encoder_types};
use serde_json::{Value, json};

use super::Context;
use crate::output::{Align, Table};

/// Lists the registered methods, and the one that edits no local model.
pub(super) fn methods(context: &Context) -> Result<()> {
    let registry = easyedit::registry();
    let mut methods: Vec<(&str, &str)> = registry.methods().map(|entry| (entry.name, entry.summary)).collect();
    methods.push((FtApi::NAME, FtApi::SUMMARY));
    methods.sort_by_key(|(name, _)| name.to_uppercase());
    let value: Vec<Value> = methods.iter().map(|(name, summary)| json!({ "name": name, "summary": summary })).collect();
    context.output.print(&value, || {
        let mut table = Table::new(&[("method", Align::Left), ("", Align::Left)]);
        for (name, summary) in &methods {
            table.row([(*name).to_owned(), (*summary).to_owned()]);
        }
        table.render()
    })
}

/// Lists the families and the short names.
pub(super) fn models(context: &Context) -> Result<()> {
    let value = json!({
        "families": families().iter().map(|family| json!({
            "name": family.name, "model_types": family.model_types, "description": family.description,
        })).collect::<Vec<_>>(),
        "text_encoders": text_encoder_types().collect::<Vec<_>>(),
        "short_names": short_names().iter().map(|one| json!({ "name": one.name, "hub": one.hub, "about": one.about })).collect::<Vec<_>>(),
    });
    context.output.print(&value, || {
        let mut table = Table::new(&[("family", Align::Left), ("model_type", Align::Left), ("", Align::Left)]);
        for family in families() {
            table.row([family.name.to_owned(), family.model_types.join(", "), family.description.to_owned()]);
        }
        let encoders = text_encoder_types().collect::<Vec<_>>().join(", ");
        table.row([
            "text encoders".to_owned(),
            encoders,
            "BERT, MiniLM and DistilBERT: sentence embeddings, no text of their own".to_owned(),
        ]);
        let mut names = Table::new(&[("short name", Align::Left), ("Hub id", Align::Left), ("", Align::Left)]);
        for one in short_names() {
            names.row([one.name.to_owned(), one.hub.to_owned(), one.about.to_owned()]);
        }
        format!(
            "{}\n{}\nAny checkpoint of these families can be named by its folder, its .gguf file (LLaMA) or its Hub id. A folder needs:\n  \
             config.json    its model_type says the family, whatever the folder is called\n  \
             weights        safetensors, single or sharded, or PyTorch's .bin or .pt\n  \
             a tokenizer    tokenizer.json, or SentencePiece's tokenizer.model\n",
            table.render(),
            names.render()
        )
    })
}
