use easyedit_core::EditRequest;

use super::prompts::{add, named};
use super::{NEIGHBORHOOD, ONE_HOP, Record, target};
use crate::value::{optional, required, wordings_of};

/// EasyEdit's flat CounterFact, KnowEdit, EasyEdit's own request dicts, and records of prompt, subject and target.
pub(super) fn request(record: &Record) -> Result<EditRequest, String> {
    let key = if record.contains_key("target_new") || !record.contains_key("target") { "target_new" } else { "target" };
    let (target_new, target_new_aliases) = target(record, key)?;
    let mut rephrase_prompts = Vec::new();
    for key in ["rephrase_prompt", "rephrase", "rephrase_prompts", "paraphrase_prompts"] {
        rephrase_prompts.extend(wordings_of(record, key)?);
    }
    let mut request = EditRequest {
        prompt: required(record, "prompt")?,
        target_new,
        target_new_aliases,
        ground_truth: optional(record, "ground_truth")?,
        subject: optional(record, "subject")?,
        rephrase_prompts,
        locality: named(record, "locality")?,
        portability: named(record, "portability")?,
        ..EditRequest::default()
    };
    let (locality, portability) = (wordings_of(record, "locality_ground_truth")?, wordings_of(record, "portability_ground_truth")?);
    add(&mut request.locality, NEIGHBORHOOD, optional(record, "locality_prompt")?, locality);
    add(&mut request.portability, ONE_HOP, optional(record, "portability_prompt")?, portability);
    Ok(request)
}
