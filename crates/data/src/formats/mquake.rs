use easyedit_core::EditRequest;
use serde_json::Value;

use super::Record;
use super::counterfact::rewrite;
use super::prompts::{Prompts, add};
use crate::value::{list, optional, wordings_of};

/// The facts of a record of MQuAKE (Zhong et al. 2023), one request each. The questions need all of the facts: they are the last request's, as
/// portability `multi_hop`, and the hops they are made of, as `single_hop`.
pub(super) fn requests(record: &Record) -> Result<Vec<EditRequest>, String> {
    let Some(Value::Array(rewrites)) = record.get("requested_rewrite") else { return Err("requested_rewrite: is not a list".into()) };
    let mut requests = Vec::with_capacity(rewrites.len());
    for (index, entry) in rewrites.iter().enumerate() {
        let within = |e: String| format!("requested_rewrite: entry {index}: {e}");
        let Value::Object(entry) = entry else { return Err(within("is not an object".into())) };
        let mut request = rewrite(entry).map_err(within)?;
        request.rephrase_prompts = optional(entry, "question").map_err(within)?.into_iter().collect();
        requests.push(request);
    }
    let Some(last) = requests.last_mut() else { return Err("requested_rewrite: is empty".into()) };
    last.portability = questions(record)?;
    Ok(requests)
}

fn questions(record: &Record) -> Result<Prompts, String> {
    let mut prompts = Prompts::new();
    let answer = |record: &Record, keys: [&str; 2]| -> Result<Vec<String>, String> {
        let mut wordings = wordings_of(record, keys[0])?;
        let aliases = wordings_of(record, keys[1])?;
        wordings.extend(aliases.into_iter().filter(|alias| !wordings.contains(alias)).collect::<Vec<_>>());
        Ok(wordings)
    };
    let multi_hop = answer(record, ["new_answer", "new_answer_alias"])?;
    for question in record.get("questions").map_or(Ok(Vec::new()), list).map_err(|e| format!("questions: {e}"))? {
        add(&mut prompts, "multi_hop", Some(question), multi_hop.clone());
    }
    let Some(Value::Array(hops)) = record.get("new_single_hops") else { return Ok(prompts) };
    for (index, hop) in hops.iter().enumerate() {
        let within = |e: String| format!("new_single_hops: entry {index}: {e}");
        let Value::Object(hop) = hop else { return Err(within("is not an object".into())) };
        let question = optional(hop, "question").map_err(within)?;
        add(&mut prompts, "single_hop", question, answer(hop, ["answer", "answer_alias"]).map_err(within)?);
    }
    Ok(prompts)
}
