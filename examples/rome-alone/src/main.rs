//! Edits a fact in the model of a folder: `rome-alone FOLDER [PROMPT SUBJECT TARGET]`.

use easyedit_models::Checkpoint;
use easyedit_rome::Rome;
use easyedit_rome::core::{CheckedRequest, EditMethod, EditRequest, GenerationConfig, LanguageModel, Method, Session};
use easyedit_rome::core::{Result, device, generate, tokens::encode_prompt};

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let folder = given.first().ok_or("give the folder of a model")?;
    let of = |index: usize, default: &'static str| given.get(index).map_or(default, String::as_str).to_owned();
    let (prompt, subject) = (of(1, "The capital of France is"), of(2, "France"));
    let mut model = Checkpoint::open(folder.as_ref())?.load(&device::select("cpu")?)?;
    println!("before: {prompt}{}", continued(&*model, &prompt)?);

    let mut rome = Rome::new(Rome::hparams_for(model.spec()));
    let request = CheckedRequest::new(EditRequest::new(prompt.clone(), subject, of(3, "Rome")))?;
    let edit = rome.edit(&*model, &[request], &Session::new())?;
    let applied = edit.apply(&mut *model)?;
    println!("after:  {prompt}{}", continued(&*model, &prompt)?);
    applied.revert(&mut *model)?;
    Ok(edit.save("rome.edit.safetensors".as_ref())?)
}

fn continued(model: &dyn LanguageModel, prompt: &str) -> Result<String> {
    generate(model, &[encode_prompt(model, prompt)?], &GenerationConfig::greedy(6))?[0].text(model)
}
