use easyedit_core::EditRequest;

use super::prompts::{add, one_hop};
use super::{NEIGHBORHOOD, Record, target};
use crate::value::{optional, required, wordings_of};

/// zsRE of MEND, with the additions of EasyEdit's portability sets.
pub(super) fn request(record: &Record) -> Result<EditRequest, String> {
    let (target_new, target_new_aliases) = target(record, "alt")?;
    let subject = optional(record, "subject")?;
    let mut request = EditRequest {
        prompt: required(record, "src")?,
        ground_truth: optional(record, "answers")?,
        rephrase_prompts: wordings_of(record, "rephrase")?,
        ..EditRequest::default()
    };
    // The prefix "nq question: " stays: it is part of the prompt that EasyEdit evaluates.
    add(&mut request.locality, NEIGHBORHOOD, optional(record, "loc")?, wordings_of(record, "loc_ans")?);
    one_hop(record, &mut request.portability)?;
    let inverse = optional(record, "inverse question")?;
    add(&mut request.portability, "inverse_relation", inverse, subject.clone().into_iter().collect());
    let other = optional(record, "alter_subject_question")?;
    add(&mut request.portability, "subject_replace", other, [vec![target_new.clone()], target_new_aliases.clone()].concat());
    Ok(EditRequest { target_new, target_new_aliases, subject, ..request })
}
